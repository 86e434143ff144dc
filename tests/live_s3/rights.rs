//! The rights that docs/s3.md names are enough, and each is needed: everything else is denied by the bucket's policy.

use lifeboat::{clock::Ground, error::ExitCode, finding::Status, s3::examine::examine};

use super::{
    failure,
    stage::{Bucket, endpoint, name, read, replay, try_read},
    versions::{all_of, source},
};

/// What a backup needs. Notification is read and set too; Ceph 16 heeds no policy there.
const READ: [&str; 9] = [
    "ListBucket",
    "GetObject",
    "GetObjectTagging",
    "GetBucketVersioning",
    "GetBucketPolicy",
    "GetBucketTagging",
    "GetBucketCORS",
    "GetBucketObjectLockConfiguration",
    "GetLifecycleConfiguration",
];
/// What a restore needs beside that.
const WRITE: [&str; 9] = [
    "PutObject",
    "PutObjectTagging",
    "AbortMultipartUpload",
    "DeleteObject",
    "PutBucketVersioning",
    "PutBucketPolicy",
    "PutBucketTagging",
    "PutBucketCORS",
    "PutLifecycleConfiguration",
];
/// What neither needs. Rights to the policy itself and to remove the bucket stay with the test.
const OTHERS: [&str; 20] = [
    "GetObjectVersion",
    "GetObjectAcl",
    "GetObjectVersionAcl",
    "PutObjectAcl",
    "PutObjectVersionAcl",
    "DeleteObjectVersion",
    "ListMultipartUploadParts",
    "ListBucketMultipartUploads",
    "ListBucketVersions",
    "GetBucketAcl",
    "PutBucketAcl",
    "GetBucketLocation",
    "GetBucketWebsite",
    "PutBucketWebsite",
    "GetReplicationConfiguration",
    "GetObjectVersionTagging",
    "PutObjectVersionTagging",
    "DeleteObjectTagging",
    "GetBucketRequestPayment",
    "PutObjectRetention",
];

/// Denies these.
async fn deny<'a>(bucket: &Bucket, actions: impl Iterator<Item = &'a &'static str>) {
    let actions: Vec<String> = actions.map(|action| format!("s3:{action}")).collect();
    let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Deny", "Principal": "*", "Action": actions,
        "Resource": [format!("arn:aws:s3:::{}", bucket.name), format!("arn:aws:s3:::{}/*", bucket.name)],
    }]});
    let put = bucket.client.put_bucket_policy().bucket(&bucket.name).policy(policy.to_string());
    put.send().await.unwrap();
}

async fn allow(bucket: &Bucket) {
    bucket.client.delete_bucket_policy().bucket(&bucket.name).send().await.unwrap();
}

async fn filled(what: &str) -> Bucket {
    let bucket = Bucket::new(what).await;
    let put = bucket.client.put_object().bucket(&bucket.name).key("a").tagging("colour=red");
    put.body(super::body(b"a")).send().await.unwrap();
    bucket.put_in_parts("parts", &[b"in one"]).await;
    bucket.expire_after_days(3000).await;
    bucket.allow_origin("https://im.example").await;
    bucket
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_backup_needs_the_rights_that_are_named_and_no_others() {
    let bucket = filled("rights").await;
    deny(&bucket, WRITE.iter().filter(|right| **right != "PutBucketPolicy").chain(&OTHERS)).await;
    let seen = try_read(bucket.source()).await.unwrap();
    assert_eq!((seen.problems.len(), seen.entries.len()), (0, 3), "{:?}", seen.problems);
    assert_eq!(seen.object(&bucket.name, "a").meta.attrs["tags"]["colour"], "red");

    for right in READ.iter().filter(|right| **right != "GetBucketPolicy") {
        deny(&bucket, [right].into_iter()).await;
        match try_read(bucket.source()).await {
            Ok(seen) => assert!(!seen.problems.is_empty(), "{right} is not needed"),
            Err(_) => assert_eq!(*right, "ListBucket", "only without the listing there is no backup"),
        }
    }
    allow(&bucket).await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_backup_of_versions_needs_the_rights_that_are_named_and_doctor_tells() {
    let bucket = filled("rights").await;
    bucket.keep_versions().await;
    bucket.put("a", b"newer").await;
    let finding = async || {
        let findings = examine(&name(), &all_of(&endpoint(), &bucket), &Ground::system()).await;
        let status = findings.iter().find(|finding| finding.id.ends_with("s3.versions")).map(|f| f.status);
        status.unwrap()
    };
    assert_eq!(finding().await, Status::Ok);
    assert_eq!(try_read(source(&bucket)).await.unwrap().problems, []);
    for right in ["ListBucketVersions", "GetObjectVersion", "GetObjectVersionTagging"] {
        deny(&bucket, [right].iter()).await;
        match try_read(source(&bucket)).await {
            Ok(seen) => assert!(!seen.problems.is_empty(), "{right} is not needed"),
            Err(_) => assert_eq!(right, "ListBucketVersions", "only without the listing there is no backup"),
        }
        let expected = if right.ends_with("Tagging") { Status::Ok } else { Status::Broken };
        assert_eq!(finding().await, expected, "{right}");
        allow(&bucket).await;
    }
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn a_restore_needs_the_rights_that_are_named_and_no_others() {
    let bucket = filled("rights").await;
    let seen = read(&bucket.source()).await;
    for key in ["parts", "extra"] {
        bucket.put(key, b"since").await;
    }
    bucket.delete("a").await;
    deny(&bucket, ["PutObject"].iter()).await;
    let refused = failure(replay(&seen, Box::new(bucket.target()), true).await);
    assert_eq!(refused.exit(), ExitCode::Partial);
    // A restore that got nowhere has set the settings of the snapshot, which had no such policy.
    deny(&bucket, OTHERS.iter()).await;
    replay(&seen, Box::new(bucket.target()), true).await.unwrap();
    assert_eq!(bucket.keys().await, ["a", "parts"]);
    assert_eq!(read(&bucket.source()).await.object(&bucket.name, "a").meta.attrs["tags"]["colour"], "red");
}

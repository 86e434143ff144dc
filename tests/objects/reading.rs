//! What a server does to a reader while it reads.

use lifeboat::policy::S3Config;

use super::{
    fake_bucket::{Content, FakeBucket, Object, Script},
    minio::{Seen, config_of, read},
};

const BUCKET: &str = "files";

async fn server(scripts: Vec<Script>) -> FakeBucket {
    FakeBucket::start(BUCKET, false, scripts).await
}

fn config(server: &FakeBucket) -> S3Config {
    config_of(server.url(), BUCKET)
}

/// Returns the bytes of an object.
fn bytes<'a>(seen: &'a Seen, key: &str) -> Option<&'a [u8]> {
    seen.entries.iter().find(|(meta, _)| meta.text("key") == Some(key))?.1.as_deref()
}

#[tokio::test]
async fn a_stream_that_broke_is_not_taken_up_again_where_nothing_tells_that_it_is_of_the_same_object() {
    for (etag, is_same) in [("", false), ("W/\"1\"", false), ("1-1", true)] {
        let server = server(vec![]).await;
        server.know_ranges();
        let old = Object { etag: etag.to_owned(), ..Object::of(&vec![1; 2 << 20]) };
        let new =
            Object { content: Content::Bytes(vec![if is_same { 1 } else { 2 }; 2 << 20]), ..old.clone() };
        server.put("big", old);
        server.break_off("big", 3 << 19, new);
        let seen = read(config(&server), None).await.unwrap();
        if is_same {
            assert!(bytes(&seen, "big").unwrap() == vec![1; 2 << 20]);
            assert_eq!(seen.problems, []);
            continue;
        }
        assert_eq!(seen.problems.len(), 1, "{etag:?}: bytes of two objects were taken for one");
        assert!(seen.problems[0].why.contains("has no ETag"), "{etag:?}: {:?}", seen.problems);
        assert_eq!(server.count("GET", "/big?x-id"), 1);
    }
}

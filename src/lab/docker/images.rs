//! Images: the one that is here is used, one that is not is pulled, within a time.

use std::time::Duration;

use bollard::{Docker, models::ImageInspect, query_parameters::CreateImageOptionsBuilder};
use futures_util::TryStreamExt;
use tokio::time::timeout;

use super::{super::not_run, engine::is_missing};
use crate::error::{Context, ExitCode, Failure, Result};

/// An image that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// The id that containers are made from, so that they are what is told.
    pub id: String,
    /// What reports say: the name and what exactly it means.
    pub shown: String,
}

/// Returns the image of this name. It is pulled if it is not here, which may take `limit`.
pub(super) async fn present(docker: &Docker, name: &str, limit: Duration) -> Result<Image> {
    match docker.inspect_image(name).await {
        Ok(found) => return Ok(image(name, found)),
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(unavailable(name).because(error)),
    }
    // Without a tag an engine would pull every one that there is.
    let options = CreateImageOptionsBuilder::default().from_image(&with_tag(name)).build();
    let pulled =
        timeout(limit, docker.create_image(Some(options), None, None).try_for_each(|_| async { Ok(()) }));
    match pulled.await {
        Err(_) => Err(unavailable(name).because(format!("pulling it took more than {} s", limit.as_secs()))),
        Ok(Err(error)) => Err(unavailable(name).because(error)),
        Ok(Ok(())) => {
            let found = docker.inspect_image(name).await;
            found.map(|found| image(name, found)).failed(ExitCode::DrillNotRun, || no_image(name))
        }
    }
}

fn no_image(name: &str) -> String {
    format!("the image `{name}` is not here and cannot be pulled")
}

fn unavailable(name: &str) -> Failure {
    not_run(no_image(name))
        .hint(format!("Pull or load it on the drill's host: `docker pull {name}`."))
        .hint("Or name another one for its source in [drill.images].")
}

fn image(name: &str, found: ImageInspect) -> Image {
    let id = found.id.unwrap_or_else(|| name.to_owned());
    let digest = found.repo_digests.iter().flatten().find_map(|one| Some(one.split_once('@')?.1));
    let shown = match digest {
        _ if name.contains("@sha256:") || *name == id => name.to_owned(),
        Some(digest) => format!("{name}@{digest}"),
        None => format!("{name} ({id})"),
    };
    Image { id, shown }
}

/// Returns a name that means one image.
fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_means_the_latest() {
        for (name, full) in [
            ("redis", "redis:latest"),
            ("redis:7", "redis:7"),
            ("localhost:5000/redis", "localhost:5000/redis:latest"),
            ("localhost:5000/a/redis:7", "localhost:5000/a/redis:7"),
            ("redis@sha256:abc", "redis@sha256:abc"),
        ] {
            assert_eq!(with_tag(name), full);
        }
    }

    #[test]
    fn reports_tell_the_digest_or_else_the_id() {
        let found = |digests: &[&str]| ImageInspect {
            id: Some("sha256:11".to_owned()),
            repo_digests: Some(digests.iter().map(|&digest| digest.to_owned()).collect()),
            ..ImageInspect::default()
        };
        assert_eq!(image("redis:7", found(&["redis@sha256:22"])).shown, "redis:7@sha256:22");
        assert_eq!(image("own:1", found(&[])).shown, "own:1 (sha256:11)");
        let pinned = image("redis@sha256:22", found(&["redis@sha256:22"]));
        assert_eq!(pinned, Image { id: "sha256:11".to_owned(), shown: "redis@sha256:22".to_owned() });
    }
}

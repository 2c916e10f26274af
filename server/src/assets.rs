//! The files that are part of the program: the client module, and the development page.

use bytes::Bytes;
use include_dir::{Dir, include_dir};

use crate::http::Asset;

static CLIENT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/client/js");
static PAGE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/server/page");

/// The client module, under `/client/`.
pub(crate) fn client() -> Vec<Asset> {
    let mut assets = Vec::new();
    collect(&CLIENT, "/client", &mut assets);
    assets
}

/// The development page: `/`, and what it needs under `/page/`.
pub(crate) fn page() -> Vec<Asset> {
    let mut assets = Vec::new();
    collect(&PAGE, "/page", &mut assets);
    let index = assets.iter().find(|asset| asset.path == "/page/index.html").cloned();
    assets.extend(index.map(|index| Asset { path: "/".into(), ..index }));
    assets
}

fn collect(directory: &'static Dir<'static>, prefix: &str, assets: &mut Vec<Asset>) {
    for file in directory.files() {
        let path = file.path().to_string_lossy();
        let content_type = match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("js" | "mjs") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("html") => "text/html; charset=utf-8",
            Some("svg") => "image/svg+xml",
            // Notes and manifests beside the modules are not for browsers.
            _ => continue,
        };
        let body = Bytes::from_static(file.contents());
        assets.push(Asset { path: format!("{prefix}/{path}").into(), content_type, body });
    }
    for child in directory.dirs() {
        collect(child, prefix, assets);
    }
}

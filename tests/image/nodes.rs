//! A thousand nodes start one image at once, over one store and one registry.

use harness::{Fault, Layout, Place, Server};

/// Each process has a scratch directory of its own, as a node has a disk.
#[test]
fn a_thousand_nodes_download_an_image_once() {
    let place = Place::new();
    let mut layout = Layout::new(place.path("layout"));
    layout.busybox();
    let _ = layout.finish("one");
    let server = Server::start(&place.path("layout"), Fault::None);
    let script = format!(
        "scratch=$SAMPAN_SCRATCH; \
         node() {{ mkdir $scratch/$1; SAMPAN_SCRATCH=$scratch/$1 $sampan exec -q {}/x/image:v1 cat /etc/marker || echo failed; }}; \
         export -f node; export scratch sampan; seq 1000 | xargs -P 100 -I{{}} bash -c 'node {{}}' | sort | uniq -c",
        server.address
    );
    let out = place.shell(&script).ok();
    assert_eq!(out.trim(), "1000 from the image");
    // The configuration and the layer, whoever was first.
    assert_eq!(server.requests("/blobs/").len(), 2, "{:?}", server.requests("/blobs/"));
    let manifests = server.requests("/manifests/").len();
    assert!(manifests <= 4, "{manifests} requests for manifests of one image");
}

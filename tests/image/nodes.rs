//! A thousand nodes start one image at once, over one store and one registry.

use harness::{Fault, Layout, Place, Server};

/// Each process has a scratch directory of its own, as a node has a disk. All are there
/// before the first one starts.
#[test]
fn a_thousand_nodes_download_an_image_once() {
    let place = Place::new();
    let mut layout = Layout::new(place.path("layout"));
    layout.busybox();
    let _ = layout.finish("one");
    let server = Server::start(&place.path("layout"), Fault::None);
    let script = format!(
        "mkfifo gate; mkdir up; \
         node() {{ \
           export SAMPAN_SCRATCH=$SAMPAN_SCRATCH/$1; mkdir $SAMPAN_SCRATCH; touch up/$1; : <gate; \
           exec $sampan exec -q {}/x/image:v1 cat /etc/marker; \
         }}; \
         for n in $(seq 1000); do node $n >out.$n & done; \
         wait_for 'ls up | wc -l | grep -qx 1000' && exec 9>gate && wait; \
         cat out.* | sort | uniq -c",
        server.address
    );
    let out = place.shell(&script).ok();
    assert_eq!(out.trim(), "1000 from the image");
    // The configuration and the layer, whoever was first.
    assert_eq!(server.requests("/blobs/").len(), 2, "{:?}", server.requests("/blobs/"));
    let manifests = server.requests("/manifests/").len();
    assert!(manifests <= 4, "{manifests} requests for manifests of one image");
}

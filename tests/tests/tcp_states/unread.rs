//! Rows that ask what the server's kernel makes of bytes behind the request under way. On a tracked connection the
//! intermediate rightly keeps those until it has read them, so these rows are played where nobody reads them
//! (`keepalive = "pinned"`).

use crate::after::{expect_block, migrated};
use crate::blind::{challenged, changed};
use crate::place::{Place, Row};
use crate::rows;
use baton_tests::peer::{Start, request};

pub(crate) const ROWS: &[Row] =
    rows![request_out_of_order, data_that_acknowledges_the_future, segments_out_of_order_before_the_freeze];

fn request_out_of_order(place: &Place) {
    let mut peer = migrated(place, &Start::default());
    let text = request("/10k");
    let pieces: Vec<_> = text.as_bytes().chunks(16).map(|piece| peer.data_segment(piece)).collect();
    expect_block(&mut peer, &pieces);
    place.expect_file(&mut peer, "10k");
    place.close(&mut peer);
}

fn data_that_acknowledges_the_future(place: &Place) {
    challenged(place, changed(|s| (s.ack, s.payload) = (s.ack.wrapping_add(1000), b"x".to_vec())));
}

fn segments_out_of_order_before_the_freeze(place: &Place) {
    crate::freeze::segments_out_of_order(place, &mut place.open(&Start::default()));
}

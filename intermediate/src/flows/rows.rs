//! Entries in pieces: a row of as many flows as there may be that never moves. One piece of memory for all would be copied into another
//! of twice its size now and then, with the flow table locked, and leave its own to be used by who needs less.

use slab::Slab;

/// Places of a piece.
const PIECE: usize = 256;

/// The row. Places are numbers, and used again.
#[derive(Debug)]
pub(super) struct Rows<T> {
    pieces: Vec<Slab<T>>,
    /// Pieces with room, by their numbers.
    with_room: Vec<usize>,
    len: usize,
}

impl<T> Rows<T> {
    pub(super) const fn new() -> Self {
        Rows { pieces: Vec::new(), with_room: Vec::new(), len: 0 }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many places there are; all are before it.
    pub(super) fn places(&self) -> usize {
        self.pieces.len().saturating_mul(PIECE)
    }

    pub(super) fn get(&self, place: usize) -> Option<&T> {
        self.pieces.get(place / PIECE)?.get(place % PIECE)
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.pieces.get_mut(place / PIECE)?.get_mut(place % PIECE)
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flat_map(|piece| piece.iter().map(|(_, entry)| entry))
    }

    /// Where it is from here on.
    pub(super) fn insert(&mut self, entry: T) -> usize {
        let number = match self.with_room.last() {
            Some(number) => *number,
            None => {
                self.with_room.push(self.pieces.len());
                self.pieces.push(Slab::with_capacity(PIECE));
                self.pieces.len() - 1
            }
        };
        let Some(piece) = self.pieces.get_mut(number) else { return usize::MAX };
        let place = piece.insert(entry);
        if piece.len() >= PIECE {
            self.with_room.pop();
        }
        self.len += 1;
        number * PIECE + place
    }

    /// What was there.
    pub(super) fn remove(&mut self, place: usize) -> Option<T> {
        let number = place / PIECE;
        let piece = self.pieces.get_mut(number)?;
        let gone = piece.try_remove(place % PIECE)?;
        if piece.len() + 1 == PIECE {
            self.with_room.push(number);
        }
        self.len -= 1;
        Some(gone)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn what_was_put_in_is_where_it_was_said_to_be_until_it_is_taken_out(
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..2000),
        ) {
            let (mut rows, mut known) = (Rows::new(), HashMap::new());
            let mut most = 0;
            for (n, (goes, which)) in steps.into_iter().enumerate() {
                // As many come as fill some pieces before any goes.
                if goes && n > 700 && !known.is_empty() {
                    let place = *which.get(&known.keys().copied().collect::<Vec<usize>>());
                    prop_assert_eq!(rows.remove(place), known.remove(&place));
                    prop_assert_eq!(rows.remove(place), None);
                } else {
                    let place = rows.insert(n);
                    prop_assert_eq!(known.insert(place, n), None);
                }
                most = most.max(known.len());
                prop_assert_eq!(rows.len(), known.len());
            }
            prop_assert_eq!(rows.places(), most.div_ceil(PIECE) * PIECE, "no piece was opened while there was room");
            for place in 0..rows.places() + PIECE {
                let expected = known.get(&place).copied();
                prop_assert_eq!(rows.get(place).copied(), expected);
                prop_assert_eq!(rows.get_mut(place).map(|n| *n), expected);
            }
            let mut all: Vec<usize> = rows.iter().copied().collect();
            let mut expected: Vec<usize> = known.into_values().collect();
            all.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(all, expected);
        }
    }
}

//! The status codes of a server's last responses, by their places.

use serde::{Deserialize, Serialize};

/// How many are kept.
pub const KEPT_STATUSES: u32 = 8;

/// Of the final responses since the server got a connection: how many there were, and the codes of the last
/// [`KEPT_STATUSES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statuses {
    seen: u32,
    /// The response with the number `n`, from 0, at `n` modulo the length.
    last: [u16; KEPT_STATUSES as usize],
}

impl Statuses {
    /// None.
    pub const NONE: Statuses = Statuses { seen: 0, last: [0; KEPT_STATUSES as usize] };

    /// Behind so many responses that nobody noted.
    pub const fn behind(seen: u32) -> Statuses {
        Statuses { seen, ..Statuses::NONE }
    }

    fn place(number: u32) -> usize {
        usize::try_from(number % KEPT_STATUSES).unwrap_or(0)
    }

    /// The head of the next final response was seen.
    pub fn note(&mut self, status: u16) {
        // Who gives so many answers is not told of any more.
        let Some(next) = self.seen.checked_add(1) else { return };
        if let Some(place) = self.last.get_mut(Self::place(self.seen)) {
            *place = status;
        }
        self.seen = next;
    }

    /// The code of the response to the request with this number, from 1; `None` if it was not seen, or too long ago.
    pub fn of(&self, request: u32) -> Option<u16> {
        let number = request.checked_sub(1)?;
        let age = self.seen.checked_sub(request)?;
        let status = self.last.get(Self::place(number)).copied()?;
        (age < KEPT_STATUSES && self.seen < u32::MAX && status > 0).then_some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_known_by_their_places_and_no_others() {
        let mut statuses = Statuses::NONE;
        assert_eq!((statuses.of(0), statuses.of(1)), (None, None));
        for status in 201..=220 {
            statuses.note(status);
        }
        assert_eq!((statuses.of(20), statuses.of(13)), (Some(220), Some(213)));
        assert_eq!((statuses.of(12), statuses.of(21), statuses.of(u32::MAX)), (None, None, None));
        let mut many = Statuses { seen: u32::MAX - 1, ..statuses };
        many.note(200);
        many.note(201);
        assert_eq!(many.of(u32::MAX), None, "their number is not known any more");
    }
}

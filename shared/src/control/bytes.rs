//! Byte strings in messages, copied whole. On the wire they are what serde makes of a `Vec<u8>` (length, bytes), which
//! however goes through every byte by itself.

use core::fmt;
use serde::de::{Deserializer, Error, Visitor};
use serde::ser::Serializer;

pub(super) fn serialize<Z: Serializer>(bytes: &[u8], z: Z) -> Result<Z::Ok, Z::Error> {
    z.serialize_bytes(bytes)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    d.deserialize_byte_buf(Bytes)
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte string")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Whole(#[serde(with = "super")] Vec<u8>);

    #[test]
    fn they_are_on_the_wire_as_a_vector_of_bytes_is() {
        for length in [0, 1, 127, 128, 70_000] {
            let bytes: Vec<u8> = (0..=255).cycle().take(length).collect();
            let wire = postcard::to_allocvec(&Whole(bytes.clone())).unwrap();
            assert_eq!(wire, postcard::to_allocvec(&bytes).unwrap());
            assert_eq!(postcard::from_bytes::<Whole>(&wire).unwrap(), Whole(bytes));
            assert!(length == 0 || postcard::from_bytes::<Whole>(&wire[..length]).is_err(), "cut short");
        }
    }
}

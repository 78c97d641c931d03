//! The intermediate's configuration, `intermediate.toml`.

//! What Baton's two daemons have in common.

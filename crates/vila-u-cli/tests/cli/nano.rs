//! The embedded model draws, answers and measures itself.

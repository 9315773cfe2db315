//! return_to.

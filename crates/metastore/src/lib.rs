//! Rows that survive: one transactional file with compare-and-swap.

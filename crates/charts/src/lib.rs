//! Figures as terminal text.

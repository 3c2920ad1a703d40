//! Everything that can go wrong around a training run: one clear message each, and nothing good is lost.

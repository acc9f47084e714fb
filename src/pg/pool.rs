//! Texts that stand many times in what a server says: held once.

use std::collections::HashSet;
use std::sync::Arc;

/// Gives the same text to all who ask for an equal one. Goes when it is dropped; its texts stay as long as anybody
/// has them.
#[derive(Debug, Default)]
pub struct TextPool(HashSet<Arc<str>>);

impl TextPool {
    /// The text that is equal to this one.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.0.insert(Arc::clone(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one() {
        let mut pool = TextPool::default();
        let (one, other, third) = (pool.get("public"), pool.get("public"), pool.get("Public"));
        drop(pool);
        assert!(Arc::ptr_eq(&one, &other) && !Arc::ptr_eq(&one, &third));
        assert_eq!((&*other, &*third), ("public", "Public"));
    }
}

//! Pointers whose content the compiler does not look into when it proves a future Send.
//!
//! Invariant: only what is Send and Sync can be put behind one. That is proved where it is put there; whoever holds the pointer
//! in a future does not prove it again through everything that the engine consists of, which takes seconds for each such future.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A sealed [`Arc`].
pub(crate) struct SealedArc<T>(Arc<dyn Hold<T>>);

/// A [`Box`] whose content the compiler does not look into when it proves a future Send. Only what is Send and Sync can be put
/// into one; that is proved there, once.
pub struct SealedBox<T>(Box<dyn Hold<T>>);

trait Hold<T>: Send + Sync {
    fn get(&self) -> &T;
    fn get_mut(&mut self) -> &mut T;
    fn take(self: Box<Self>) -> T;
}

impl<T: Send + Sync> Hold<T> for T {
    fn get(&self) -> &T {
        self
    }

    fn get_mut(&mut self) -> &mut T {
        self
    }

    fn take(self: Box<Self>) -> T {
        *self
    }
}

impl<T: Send + Sync + 'static> SealedArc<T> {
    pub(crate) fn new(content: T) -> Self {
        Self(Arc::new(content))
    }
}

impl<T> Clone for SealedArc<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for SealedArc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        (*self.0).get()
    }
}

impl<T: fmt::Debug> fmt::Debug for SealedArc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Send + Sync + 'static> SealedBox<T> {
    /// Puts `content` into a box.
    pub fn new(content: T) -> Self {
        Self(Box::new(content))
    }
}

impl<T> SealedBox<T> {
    /// What is in the box.
    pub fn into_inner(self) -> T {
        self.0.take()
    }
}

impl<T: Default + Send + Sync + 'static> Default for SealedBox<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Deref for SealedBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        (*self.0).get()
    }
}

impl<T> DerefMut for SealedBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        (*self.0).get_mut()
    }
}

impl<T: fmt::Debug> fmt::Debug for SealedBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

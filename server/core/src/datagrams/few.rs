//! A list that mostly has one entry, which costs no memory elsewhere.

use std::{
    ops::{Deref, DerefMut},
    slice,
};

#[derive(Clone, Debug, Default)]
pub(super) enum Few<T> {
    #[default]
    None,
    One(T),
    Many(Vec<T>),
}

impl<T> Few<T> {
    pub(super) fn push(&mut self, it: T) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(it),
            Self::One(first) => Self::Many(vec![first, it]),
            Self::Many(mut list) => {
                list.push(it);
                Self::Many(list)
            }
        };
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(it) => slice::from_ref(it),
            Self::Many(list) => list,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::None => &mut [],
            Self::One(it) => slice::from_mut(it),
            Self::Many(list) => list,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list() {
        let mut few = Few::default();
        for n in 0..5 {
            assert_eq!(few[..], (0..n).collect::<Vec<_>>());
            few.push(n);
        }
        few.iter_mut().for_each(|it| *it += 1);
        assert_eq!(few[..], [1, 2, 3, 4, 5]);
    }
}

//! Typed handles: which output feeds which input.

use std::fmt;
use std::marker::PhantomData;

use super::plan::Wiring;

/// A handle to a value that a saga will have: the output of a step that was added to a builder.
pub struct Output<T> {
    pub(super) node: usize,
    value: PhantomData<fn() -> T>,
}

impl<T> Output<T> {
    pub(super) fn new(node: usize) -> Self {
        Self { node, value: PhantomData }
    }
}

impl<T> Clone for Output<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Output<T> {}

impl<T> fmt::Debug for Output<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({})", self.node)
    }
}

/// What can feed a step whose input is `In`: a handle, a tuple of handles, a list of handles, or `()`.
///
/// It gives plain data only, so that a plan holds no closure and its machine stays pure.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not feed a step that takes `{In}`",
    label = "these handles give something else than `{In}`",
    note = "a step is fed by an `Output<In>`, by a tuple of outputs in the order of its input's parts, by a `Vec` of outputs, or by `()`"
)]
pub trait Feeds<In>: sealed::Sealed {
    /// Where the input comes from.
    fn wiring(&self) -> Wiring;
}

mod sealed {
    pub trait Sealed {}
}

impl<T> sealed::Sealed for Output<T> {}
impl<T> Feeds<T> for Output<T> {
    fn wiring(&self) -> Wiring {
        Wiring::One(self.node)
    }
}

impl sealed::Sealed for () {}
impl Feeds<()> for () {
    fn wiring(&self) -> Wiring {
        Wiring::Unit
    }
}

impl<T> sealed::Sealed for Vec<Output<T>> {}
impl<T> Feeds<Vec<T>> for Vec<Output<T>> {
    fn wiring(&self) -> Wiring {
        Wiring::Many(self.iter().map(|output| output.node).collect())
    }
}

macro_rules! tuples_feed {
    ($($($part:ident)+;)*) => {$(
        impl<$($part),+> sealed::Sealed for ($(Output<$part>,)+) {}
        impl<$($part),+> Feeds<($($part,)+)> for ($(Output<$part>,)+) {
            #[expect(non_snake_case, reason = "the parts are named after their types")]
            fn wiring(&self) -> Wiring {
                let ($($part,)+) = self;
                Wiring::Many(vec![$($part.node),+])
            }
        }
    )*};
}
tuples_feed! {
    A; A B; A B C; A B C D; A B C D E; A B C D E F; A B C D E F G; A B C D E F G H;
}

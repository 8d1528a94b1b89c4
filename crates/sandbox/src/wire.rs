//! The bytes of a plan on its way from the starter to the supervisor: little-endian numbers, length-prefixed bytes.
//! Both ends are of one build, so there is no version; the reader still trusts no length.

use crate::limits::PLAN_ENTRIES_MAX;

/// What was wrong with an encoded plan, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct WireError {
    pub what: &'static str,
    pub offset: usize,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "plan: {} at byte {}", self.what, self.offset)
    }
}

impl std::error::Error for WireError {}

#[derive(Default)]
pub struct Writer {
    pub out: Vec<u8>,
}

pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, offset: 0 }
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, WireError> {
        Err(WireError { what, offset: self.offset })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        match self.bytes.get(self.offset..).and_then(|rest| rest.get(..len)) {
            Some(slice) => {
                self.offset += len;
                Ok(slice)
            }
            None => self.fail("cut short"),
        }
    }

    pub fn end(&self) -> Result<(), WireError> {
        if self.offset == self.bytes.len() { Ok(()) } else { self.fail("bytes after the end") }
    }
}

/// A value that can stand in a plan.
pub trait Wire: Sized {
    fn put(&self, to: &mut Writer);
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Wire for $number {
            fn put(&self, to: &mut Writer) {
                to.out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
                let mut bytes = [0; size_of::<$number>()];
                bytes.copy_from_slice(from.take(size_of::<$number>())?);
                Ok(<$number>::from_le_bytes(bytes))
            }
        }
    )*};
}
numbers!(u16, u32, u64);

impl Wire for u8 {
    fn put(&self, to: &mut Writer) {
        to.out.push(*self);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(from.take(1)?[0])
    }
}

impl Wire for bool {
    fn put(&self, to: &mut Writer) {
        to.out.push(u8::from(*self));
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::take(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => from.fail("a flag that is neither 0 nor 1"),
        }
    }
}

/// Bytes, length first. A newtype, because `Vec<u8>` as a list of numbers would go byte by byte.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.len() {
            0..=256 => write!(f, "\"{}\"", self.0.escape_ascii()),
            len => write!(f, "<{len} bytes>"),
        }
    }
}

impl<T: AsRef<[u8]>> From<T> for Bytes {
    fn from(bytes: T) -> Self {
        Bytes(bytes.as_ref().to_vec())
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Wire for Bytes {
    fn put(&self, to: &mut Writer) {
        (self.0.len() as u64).put(to);
        to.out.extend_from_slice(&self.0);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let len = u64::take(from)?;
        match usize::try_from(len) {
            Ok(len) => Ok(Bytes(from.take(len)?.to_vec())),
            Err(_) => from.fail("a length over all bounds"),
        }
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, to: &mut Writer) {
        (self.len() as u32).put(to);
        for entry in self {
            entry.put(to);
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let len = u32::take(from)? as usize;
        if len > PLAN_ENTRIES_MAX {
            return from.fail("a list over all bounds");
        }
        // No with_capacity: the length is not proved until the entries are there.
        (0..len).map(|_| T::take(from)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, to: &mut Writer) {
        self.is_some().put(to);
        if let Some(value) = self {
            value.put(to);
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        if bool::take(from)? { Ok(Some(T::take(from)?)) } else { Ok(None) }
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, to: &mut Writer) {
        self.0.put(to);
        self.1.put(to);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok((A::take(from)?, B::take(from)?))
    }
}

impl Wire for [u8; 16] {
    fn put(&self, to: &mut Writer) {
        to.out.extend_from_slice(self);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(from.take(16)?);
        Ok(bytes)
    }
}

impl Wire for crate::sys::BpfInstruction {
    fn put(&self, to: &mut Writer) {
        self.code.put(to);
        self.jt.put(to);
        self.jf.put(to);
        self.k.put(to);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(crate::sys::BpfInstruction {
            code: u16::take(from)?,
            jt: u8::take(from)?,
            jf: u8::take(from)?,
            k: u32::take(from)?,
        })
    }
}

/// A struct whose fields go in the order given.
macro_rules! wire_struct {
    ($name:ty { $($field:ident),* $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn put(&self, to: &mut $crate::wire::Writer) {
                $( self.$field.put(to); )*
            }
            fn take(from: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::WireError> {
                Ok(Self { $( $field: $crate::wire::Wire::take(from)? ),* })
            }
        }
    };
}

/// An enum whose variants have named fields, each with its number.
macro_rules! wire_enum {
    ($name:ident { $($tag:literal => $variant:ident { $($field:ident),* $(,)? }),* $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn put(&self, to: &mut $crate::wire::Writer) {
                match self {
                    $( $name::$variant { $($field),* } => {
                        $crate::wire::Wire::put(&($tag as u8), to);
                        $( $crate::wire::Wire::put($field, to); )*
                    } )*
                }
            }
            fn take(from: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::WireError> {
                match <u8 as $crate::wire::Wire>::take(from)? {
                    $( $tag => Ok($name::$variant { $( $field: $crate::wire::Wire::take(from)? ),* }), )*
                    _ => from.unknown(stringify!($name)),
                }
            }
        }
    };
}

impl Reader<'_> {
    pub fn unknown<T>(&self, what: &'static str) -> Result<T, WireError> {
        self.fail(what)
    }
}

pub(crate) use {wire_enum, wire_struct};

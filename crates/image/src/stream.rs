//! A blob on its way: checked against its descriptor, unpacked, hashed again, and never longer than allowed.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::digest::{Digest, Hasher};
use crate::error::Error;
use crate::limits::{BUFFER_BYTES, RATIO_FREE_BYTES, RATIO_MAX, ZSTD_WINDOW_LOG_MAX};
use crate::tar::Input;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// What zstd calls a skippable frame; the seekable form of layers may begin with one.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// What a descriptor says of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Counts and hashes the bytes as they are stored.
struct Stored<R> {
    inner: R,
    hasher: Hasher,
    bytes: u64,
    /// One more than this is read, so that too long a blob shows.
    size: Option<u64>,
}

impl<R: Read> Read for Stored<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size.map_or(u64::MAX, |size| (size + 1).saturating_sub(self.bytes));
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(buffer.get_mut(..wanted).unwrap_or_default())?;
        let read = buffer.get(..read).unwrap_or_default();
        // Without a promise there is nothing to compare with.
        if self.size.is_some() {
            self.hasher.update(read);
        }
        self.bytes += read.len() as u64;
        Ok(read.len())
    }
}

#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
enum Decoder<R: Read> {
    Plain(BufReader<Stored<R>>),
    Gzip(MultiGzDecoder<BufReader<Stored<R>>>),
    Zstd(zstd::Decoder<'static, BufReader<Stored<R>>>),
}

impl<R: Read> Decoder<R> {
    fn stored(&self) -> &Stored<R> {
        match self {
            Decoder::Plain(reader) => reader.get_ref(),
            Decoder::Gzip(decoder) => decoder.get_ref().get_ref(),
            Decoder::Zstd(decoder) => decoder.get_ref().get_ref(),
        }
    }

    fn into_stored(self) -> Stored<R> {
        match self {
            Decoder::Plain(reader) => reader.into_inner(),
            Decoder::Gzip(decoder) => decoder.into_inner().into_inner(),
            Decoder::Zstd(decoder) => decoder.finish().into_inner(),
        }
    }
}

/// A stream longer than allowed. Reaches the caller inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
enum Overrun {
    #[error("it unpacks to more than the {max} bytes that are left of what is allowed")]
    Bytes { max: u64 },
    #[error("it unpacks to more than {RATIO_MAX} times its size")]
    Ratio,
}

/// The unpacked bytes.
pub(crate) struct Stream<R: Read> {
    decoder: Decoder<R>,
    hasher: Hasher,
    bytes: u64,
    bytes_max: u64,
    buffer: Box<[u8]>,
}

impl<R: Read> fmt::Debug for Stream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl<R: Read> Stream<R> {
    /// Packed with gzip, with zstd or not at all: as its first bytes say. Media types are often wrong, and what comes out is
    /// checked against a digest anyway. Gives no more than `bytes_max`.
    pub(crate) fn open(inner: R, promise: Option<Promise>, bytes_max: u64) -> io::Result<Self> {
        let size = promise.map(|promise| promise.size);
        let stored = Stored { inner, hasher: Hasher::default(), bytes: 0, size };
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, stored);
        let start = start(&mut reader)?;
        let decoder = if start.starts_with(&GZIP_MAGIC) {
            Decoder::Gzip(MultiGzDecoder::new(reader))
        } else if start == ZSTD_MAGIC || start.get(1..) == Some(&ZSTD_SKIPPABLE) {
            let mut decoder = zstd::Decoder::with_buffer(reader)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Decoder::Zstd(decoder)
        } else {
            Decoder::Plain(reader)
        };
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Ok(Stream { decoder, hasher: Hasher::default(), bytes: 0, bytes_max, buffer })
    }

    /// Bytes given so far.
    pub(crate) fn given(&self) -> u64 {
        self.bytes
    }

    /// Reads to the end and throws it away, but no more than so many bytes.
    pub(crate) fn drain(&mut self, max: u64) -> io::Result<()> {
        let end = self.bytes.saturating_add(max);
        while self.read_some(u64::MAX)? != 0 {
            if self.bytes > end {
                return Err(io::Error::other(format!("more than {max} bytes follow its end")));
            }
        }
        Ok(())
    }

    /// At its end: the digest of what came out. Checks what went in against its promise.
    pub(crate) fn finish(self, what: &str, promise: Option<Promise>) -> Result<Digest, Error> {
        let Stream { decoder, hasher, .. } = self;
        if let Some(promise) = promise {
            check(decoder.into_stored(), what, promise)?;
        }
        Ok(hasher.finish())
    }

    /// When reading has failed: whether the blob is at fault for not being the one that was promised.
    pub(crate) fn blame(self, what: &str, promise: Option<Promise>) -> Result<(), Error> {
        promise.map_or(Ok(()), |promise| check(self.decoder.into_stored(), what, promise))
    }

    fn read_some(&mut self, wanted: u64) -> io::Result<usize> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.read(buffer.get_mut(..wanted).unwrap_or_default());
        self.buffer = buffer;
        read
    }
}

/// The first bytes, at most four of them; what a reader gives at once may be less.
fn start<R: Read>(reader: &mut BufReader<Stored<R>>) -> io::Result<Vec<u8>> {
    let first = reader.fill_buf()?;
    Ok(first.get(..4).unwrap_or(first).to_vec())
}

fn check<R: Read>(mut stored: Stored<R>, what: &str, promise: Promise) -> Result<(), Error> {
    io::copy(&mut stored, &mut io::sink()).map_err(|source| Error::Read { what: what.to_owned(), source })?;
    if stored.bytes != promise.size {
        return Err(Error::Size { what: what.to_owned(), expected: promise.size });
    }
    let found = stored.hasher.finish();
    if found != promise.digest {
        return Err(Error::Digest { what: what.to_owned(), expected: promise.digest, found });
    }
    Ok(())
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.decoder {
            Decoder::Plain(reader) => reader.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }?;
        self.bytes += read as u64;
        if self.bytes > self.bytes_max {
            return Err(io::Error::other(Overrun::Bytes { max: self.bytes_max }));
        }
        let allowed = self.decoder.stored().bytes.saturating_mul(RATIO_MAX).max(RATIO_FREE_BYTES);
        if self.bytes > allowed {
            return Err(io::Error::other(Overrun::Ratio));
        }
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

impl<R: Read> Input for Stream<R> {
    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            match self.read_some(bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => bytes -= read as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

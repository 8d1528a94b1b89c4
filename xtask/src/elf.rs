//! Just enough of ELF to tell whether a program is static.

use anyhow::{Context, Result, bail};

const PT_INTERP: u32 = 3;
/// More program headers than any linker writes.
const PROGRAM_HEADERS_MAX: usize = 1024;

/// Whether a 64-bit little-endian ELF file asks for a dynamic loader.
pub(crate) fn has_interpreter(file: &[u8]) -> Result<bool> {
    if file.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF file");
    }
    let offset =
        usize::try_from(u64::from_le_bytes(bytes(file, 32)?)).context("program headers beyond memory")?;
    let size = usize::from(u16::from_le_bytes(bytes(file, 54)?));
    let count = usize::from(u16::from_le_bytes(bytes(file, 56)?));
    if count > PROGRAM_HEADERS_MAX {
        bail!("{count} program headers");
    }
    for index in 0..count {
        let at =
            size.checked_mul(index).and_then(|skip| offset.checked_add(skip)).context("header overflows")?;
        if u32::from_le_bytes(bytes(file, at)?) == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    let end = at.checked_add(N).context("offset overflows")?;
    let part = file.get(at..end).with_context(|| format!("cut off at byte {at}"))?;
    Ok(part.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u32) -> Vec<u8> {
        let mut file = vec![0_u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file.extend(kind.to_le_bytes());
        file.resize(64 + 56, 0);
        file
    }

    #[test]
    fn tells_static_from_dynamic() {
        assert!(has_interpreter(&header(PT_INTERP)).unwrap());
        assert!(!has_interpreter(&header(1)).unwrap());
    }

    #[test]
    fn refuses_what_is_cut_or_other() {
        assert!(has_interpreter(b"#!/bin/sh").is_err());
        assert!(has_interpreter(&header(1)[..66]).is_err());
    }

    #[test]
    fn this_test_itself_is_dynamic() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(has_interpreter(&own).unwrap() || cfg!(target_feature = "crt-static"));
    }
}

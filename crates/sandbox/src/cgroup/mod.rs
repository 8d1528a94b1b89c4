//! Control groups: found on the host ([`layout`]), put into the plan, made and read by the supervisor ([`groups`]).

pub mod groups;
pub mod layout;

pub use groups::Groups;
pub use layout::{Controller, Layout};

/// The directory of one execution inside its parent.
pub fn directory_name(id: &[u8; 16]) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{hex}")
}

/// Every directory that we make starts like this; nothing else is ever touched.
pub const PREFIX: &str = "lastword-";

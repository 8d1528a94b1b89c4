//! The seccomp filter: the policy as a table ([`policy`]), compiled to BPF here.
//!
//! It is a list of what is refused, because programs are of any kind; the walls proper are the namespaces, the empty
//! capability set and no_new_privs. The list closes what would let a program around the capture, at the supervisor, or at
//! kernel code that no sandboxed program needs.

pub mod policy;

use crate::sys::BpfInstruction;
use policy::{Action, Rule, Test};

/// Offsets in `struct seccomp_data`.
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// Set in the number of an x32 call, which comes with the x86-64 arch.
const X32_SYSCALL_BIT: u32 = 0x4000_0000;

const RET_ERRNO: u32 = 0x0005_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Rules to a block: a call's number skips blocks before it looks at single rules. The kernel runs a new filter once for
/// each call number to learn what is always allowed, so the length of the walk is the cost of installing.
const RULES_PER_BLOCK: usize = 8;

fn op(code: u16, k: u32) -> BpfInstruction {
    BpfInstruction { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: usize, jf: usize) -> BpfInstruction {
    // Distances are at most a block's length; the test `every_jump_fits` walks all of them.
    BpfInstruction { code, jt: jt.min(255) as u8, jf: jf.min(255) as u8, k }
}

/// Compiles the policy. `notify`: calls that can write to a pipe wait for the supervisor; else they are plainly allowed.
pub fn compile(notify: bool) -> Vec<BpfInstruction> {
    let mut rules: Vec<&Rule> =
        policy::RULES.iter().filter(|rule| notify || rule.action != Action::Notify).collect();
    rules.sort_by_key(|rule| rule.nr);
    let mut out = vec![
        // The arch first: a number means nothing without it. 32-bit calls (int 0x80) end here.
        op(LOAD_WORD, OFFSET_ARCH),
        jump(JUMP_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        op(RETURN, RET_ERRNO | libc::ENOSYS as u32),
        op(LOAD_WORD, OFFSET_NR),
        jump(JUMP_GREATER_EQUAL, X32_SYSCALL_BIT, 0, 1),
        op(RETURN, RET_ERRNO | libc::ENOSYS as u32),
    ];
    let mut rules = rules.as_slice();
    while !rules.is_empty() {
        let mut len = RULES_PER_BLOCK.min(rules.len());
        // Rules of one call stay in one block.
        while len < rules.len() && rules[len].nr == rules[len - 1].nr {
            len += 1;
        }
        let (block, rest) = rules.split_at(len);
        let mut body = Vec::new();
        for rule in block {
            body.extend(compile_rule(rule));
        }
        // A number within this block that no rule took is allowed.
        body.push(op(RETURN, RET_ALLOW));
        out.push(jump(JUMP_GREATER, block[len - 1].nr as u32, body.len(), 0));
        out.extend(body);
        rules = rest;
    }
    out.push(op(RETURN, RET_ALLOW));
    out
}

/// `if nr == rule.nr && all tests hold: return action`. Leaves the number in the accumulator otherwise.
fn compile_rule(rule: &Rule) -> Vec<BpfInstruction> {
    let action = match rule.action {
        Action::Errno(errno) => RET_ERRNO | errno as u32,
        Action::Notify => RET_USER_NOTIF,
    };
    if rule.tests.is_empty() {
        return vec![jump(JUMP_EQUAL, rule.nr as u32, 0, 1), op(RETURN, action)];
    }
    // From the back: each test jumps over what follows it when it doesn't hold.
    let mut tail = vec![op(RETURN, action)];
    for test in rule.tests.iter().rev() {
        let mut code = vec![op(LOAD_WORD, OFFSET_ARGS + 8 * u32::from(test.arg()))];
        match *test {
            Test::Is(_, value) => code.push(jump(JUMP_EQUAL, value, 0, tail.len())),
            Test::IsNot(_, value) => code.push(jump(JUMP_EQUAL, value, tail.len(), 0)),
            Test::Has(_, mask) => {
                code.push(op(AND, mask));
                code.push(jump(JUMP_EQUAL, 0, tail.len(), 0));
            }
        }
        code.extend(tail);
        tail = code;
    }
    // When a test fails, the argument is in the accumulator: load the number again for the next rule.
    let mut code = vec![jump(JUMP_EQUAL, rule.nr as u32, 0, tail.len() + 1)];
    code.extend(tail);
    code.push(op(LOAD_WORD, OFFSET_NR));
    code
}

#[cfg(test)]
mod tests;

use super::*;

/// Runs a filter as the kernel would (Documentation/networking/filter.rst).
fn run(filter: &[BpfInstruction], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let load = |offset: u32| match offset {
        OFFSET_NR => nr,
        OFFSET_ARCH => arch,
        _ => args[((offset - OFFSET_ARGS) / 8) as usize] as u32,
    };
    let (mut pc, mut accumulator) = (0usize, 0u32);
    loop {
        let BpfInstruction { code, jt, jf, k } = filter[pc];
        pc += 1;
        let mut branch = |holds: bool| pc += usize::from(if holds { jt } else { jf });
        match code {
            LOAD_WORD => accumulator = load(k),
            AND => accumulator &= k,
            JUMP_EQUAL => branch(accumulator == k),
            JUMP_GREATER => branch(accumulator > k),
            JUMP_GREATER_EQUAL => branch(accumulator >= k),
            RETURN => return k,
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
}

/// What the table says, read off without the compiler.
fn expected(nr: u32, args: [u64; 6], notify: bool) -> u32 {
    let holds = |test: &Test| {
        let value = args[usize::from(test.arg())] as u32;
        match *test {
            Test::Is(_, wanted) => value == wanted,
            Test::IsNot(_, wanted) => value != wanted,
            Test::Has(_, mask) => value & mask != 0,
        }
    };
    policy::RULES
        .iter()
        .filter(|rule| notify || rule.action != Action::Notify)
        .find(|rule| rule.nr == i64::from(nr) && rule.tests.iter().all(holds))
        .map_or(RET_ALLOW, |rule| match rule.action {
            Action::Errno(errno) => RET_ERRNO | errno as u32,
            Action::Notify => RET_USER_NOTIF,
        })
}

#[test]
fn the_filter_does_what_the_table_says() {
    let interesting =
        [0, 1, 2, 3, 10, 16, 40, 0x5412, 0x541c, 0x0004_0000, 0x1000_0000, 0x0002_0000, u64::MAX];
    for notify in [false, true] {
        let filter = compile(notify);
        for nr in 0..600 {
            for a in interesting {
                for b in interesting {
                    let args = [a, b, a, b, a, b];
                    assert_eq!(
                        run(&filter, AUDIT_ARCH_X86_64, nr, args),
                        expected(nr, args, notify),
                        "call {nr} with {a:#x}, {b:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn other_abis_are_refused_before_any_rule() {
    let filter = compile(true);
    let absent = RET_ERRNO | libc::ENOSYS as u32;
    for nr in [0, 1, 4, 146, 400, 0xffff_ffff] {
        assert_eq!(run(&filter, 0x4000_0003, nr, [0; 6]), absent, "i386 call {nr}");
        assert_eq!(run(&filter, AUDIT_ARCH_X86_64, nr | X32_SYSCALL_BIT, [0; 6]), absent, "x32 call {nr}");
    }
}

#[test]
fn every_jump_fits() {
    for notify in [false, true] {
        let filter = compile(notify);
        assert!(filter.len() < 4096, "the kernel's bound");
        for (at, instruction) in filter.iter().enumerate() {
            if matches!(instruction.code, JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_EQUAL) {
                for distance in [instruction.jt, instruction.jf] {
                    assert!(distance < 255, "instruction {at} may have been cut");
                    assert!(at + 1 + usize::from(distance) < filter.len(), "instruction {at} jumps out");
                }
            }
        }
    }
}

#[test]
fn every_rule_has_a_reason() {
    for rule in policy::RULES {
        assert!(rule.reason.len() > 5, "{} has none", rule.name);
    }
}

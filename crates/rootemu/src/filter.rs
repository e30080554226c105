//! The seccomp program.

use sys::seccomp::Instruction;

use crate::Mode;
use crate::calls::{Call, TABLES, Table};

// linux/bpf_common.h.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// linux/seccomp.h.
const ALLOW: u32 = 0x7fff_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const ERRNO: u32 = 0x0005_0000;
const SUCCESS: u32 = ERRNO;
const NO_SUCH_CALL: u32 = ERRNO | 38;

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// RLIMIT_LOCKS of asm-generic/resource.h, which says who a process is.
const LOCKS: u32 = 10;
/// PR_SET_KEEPCAPS of linux/prctl.h.
const KEEP_CAPABILITIES: u32 = 8;
/// File types of mknod(2).
const TYPES: u32 = 0o170_000;
const CHARACTER: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;

fn step(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// The low half of an argument.
fn argument(index: u8) -> u32 {
    let low = if cfg!(target_endian = "big") { 4 } else { 0 };
    ARGUMENTS + u32::from(index) * 8 + low
}

/// The high half.
fn high(index: u8) -> u32 {
    argument(index) ^ 4
}

/// The program of a mode. Calls that it lets pass without a look are so many
/// table entries for the kernel, which runs no program for them.
#[must_use]
pub fn filter(mode: Mode) -> Vec<Instruction> {
    let mut program = vec![step(LOAD, ARCH)];
    if mode == Mode::None {
        return vec![step(RETURN, ALLOW)];
    }
    for table in TABLES {
        let block = calls(table, mode);
        // A comparison skips at most 255 instructions, a jump any number.
        program.push(Instruction { code: EQUAL, jt: 1, jf: 0, k: table.arch });
        program.push(step(JUMP, block.len() as u32));
        program.extend(block);
    }
    program.push(step(RETURN, NO_SUCH_CALL));
    program
}

/// The same program where nobody answers: what would be looked at passes.
#[must_use]
pub fn unattended(mut program: Vec<Instruction>) -> Vec<Instruction> {
    for instruction in &mut program {
        if (instruction.code, instruction.k) == (RETURN, NOTIFY) {
            instruction.k = ALLOW;
        }
    }
    program
}

fn calls(table: &Table, mode: Mode) -> Vec<Instruction> {
    let mut block = vec![step(LOAD, NUMBER)];
    if table.mask != 0 {
        block.push(step(AND, !table.mask));
    }
    for (number, call, answered) in table.calls() {
        let mode = match mode {
            Mode::Consistent if !answered => Mode::Fast,
            Mode::Devices if !answered => Mode::None,
            mode => mode,
        };
        // What a name says no program of the kernel can read.
        let noticed = answered && mode == Mode::Fast && call == Call::Setxattr;
        let answer = if noticed { vec![step(RETURN, NOTIFY)] } else { answer(call, mode) };
        if answer.is_empty() {
            continue;
        }
        block.push(Instruction { code: EQUAL, jt: 0, jf: answer.len() as u8, k: number });
        block.extend(answer);
    }
    block.push(step(RETURN, ALLOW));
    block
}

/// What to do about a call; nothing for one that passes.
fn answer(call: Call, mode: Mode) -> Vec<Instruction> {
    if mode == Mode::None {
        return Vec::new();
    }
    let consistent = mode == Mode::Consistent;
    if let Some(index) = call.mode_argument() {
        if consistent {
            // FIFOs and files are real, and belong to who makes them.
            return vec![step(RETURN, NOTIFY)];
        }
        let verdict = if mode == Mode::Fast { SUCCESS } else { NOTIFY };
        return vec![
            step(LOAD, argument(index)),
            step(AND, TYPES),
            Instruction { code: EQUAL, jt: 1, jf: 0, k: CHARACTER },
            Instruction { code: EQUAL, jt: 0, jf: 1, k: BLOCK },
            step(RETURN, verdict),
            // FIFOs, sockets and files are real.
            step(RETURN, ALLOW),
        ];
    }
    if let Some((index, flags)) = call.deciding_flags() {
        if !consistent {
            return Vec::new();
        }
        return vec![
            step(LOAD, argument(index)),
            Instruction { code: ANY_BIT, jt: 0, jf: 1, k: flags },
            step(RETURN, NOTIFY),
            step(RETURN, ALLOW),
        ];
    }
    if call == Call::Prctl {
        if !consistent {
            return Vec::new();
        }
        return vec![
            step(LOAD, argument(0)),
            Instruction { code: EQUAL, jt: 0, jf: 1, k: KEEP_CAPABILITIES },
            step(RETURN, NOTIFY),
            step(RETURN, ALLOW),
        ];
    }
    if matches!(call, Call::Setrlimit | Call::Prlimit) {
        return if consistent { limit(call) } else { Vec::new() };
    }
    match call {
        // What it does is not recorded, and what it shows is not what was.
        Call::IoUring if mode == Mode::Fast => Vec::new(),
        Call::IoUring => vec![step(RETURN, NO_SUCH_CALL)],
        _ if mode == Mode::Devices => match call.of_devices() {
            true => vec![step(RETURN, NOTIFY)],
            false => Vec::new(),
        },
        Call::Capset | Call::KexecLoad => vec![step(RETURN, SUCCESS)],
        _ if consistent => vec![step(RETURN, NOTIFY)],
        _ if call.privileged() => vec![step(RETURN, SUCCESS)],
        _ => Vec::new(),
    }
}

/// A program that sets the limit hears that it is done, and it stays as it is.
fn limit(call: Call) -> Vec<Instruction> {
    if call == Call::Setrlimit {
        return vec![
            step(LOAD, argument(0)),
            Instruction { code: EQUAL, jt: 0, jf: 1, k: LOCKS },
            step(RETURN, SUCCESS),
            step(RETURN, ALLOW),
        ];
    }
    // To ask for it is to set nothing.
    vec![
        step(LOAD, argument(1)),
        Instruction { code: EQUAL, jt: 0, jf: 5, k: LOCKS },
        step(LOAD, argument(2)),
        Instruction { code: EQUAL, jt: 0, jf: 2, k: 0 },
        step(LOAD, high(2)),
        Instruction { code: EQUAL, jt: 1, jf: 0, k: 0 },
        step(RETURN, SUCCESS),
        step(RETURN, ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::{I386, NATIVE, X86_64};

    /// Runs a program as the kernel does.
    fn run(program: &[Instruction], arch: u32, number: u32, args: [u32; 6]) -> u32 {
        let (mut at, mut a) = (0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            match code {
                LOAD if k == NUMBER => a = number,
                LOAD if k == ARCH => a = arch,
                LOAD if (k - ARGUMENTS) % 8 == 4 => a = 0,
                LOAD => a = args[((k - ARGUMENTS) / 8) as usize],
                AND => a &= k,
                ANY_BIT => at += usize::from(if a & k != 0 { jt } else { jf }),
                EQUAL => at += usize::from(if a == k { jt } else { jf }),
                JUMP => at += k as usize,
                RETURN => return k,
                _ => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn every_call_of_every_architecture_gets_its_answer() {
        for mode in [Mode::Fast, Mode::Consistent] {
            let program = filter(mode);
            assert!(program.len() < 4096, "{}", program.len());
            for table in TABLES {
                for (number, call, answered) in table.calls() {
                    let consistent = mode == Mode::Consistent && answered;
                    let argument = match call {
                        Call::Prctl => KEEP_CAPABILITIES,
                        Call::Setrlimit | Call::Prlimit => LOCKS,
                        _ => call.deciding_flags().map_or(CHARACTER, |(_, flags)| flags),
                    };
                    let got = run(
                        &program,
                        table.arch,
                        number,
                        [if call.deciding_flags().is_some() || call.mode_argument().is_some() {
                            argument | 0o600
                        } else {
                            argument
                        }; 6],
                    );
                    let expected = match call {
                        Call::Capset | Call::KexecLoad => SUCCESS,
                        Call::IoUring if consistent => NO_SUCH_CALL,
                        Call::Setrlimit | Call::Prlimit if consistent => SUCCESS,
                        Call::Setxattr if answered => NOTIFY,
                        _ if consistent => NOTIFY,
                        _ if call.privileged() || call.mode_argument().is_some() => SUCCESS,
                        _ => ALLOW,
                    };
                    assert_eq!(got, expected, "{mode:?} {:#x} {number} {call:?}", table.arch);
                    if table.mask != 0 {
                        let argument = if argument == CHARACTER { BLOCK } else { argument };
                        let marked = run(&program, table.arch, number | table.mask, [argument; 6]);
                        assert_eq!(marked, expected);
                    }
                }
                // read(2) or another call that nobody looks at.
                assert_eq!(run(&program, table.arch, 63_000, [0; 6]), ALLOW);
            }
            assert_eq!(run(&program, 0x1234, 92, [0; 6]), NO_SUCH_CALL);
        }
        let alone = unattended(filter(Mode::Fast));
        assert_eq!(run(&alone, NATIVE, 188, [0; 6]), ALLOW);
        assert_eq!(run(&alone, NATIVE, 92, [0; 6]), SUCCESS);
        assert_eq!(run(&filter(Mode::None), 0x1234, 92, [0; 6]), ALLOW);
    }

    #[test]
    fn opening_without_making_is_not_looked_at() {
        let program = filter(Mode::Consistent);
        assert_eq!(run(&program, NATIVE, 257, [0, 0, 0o2_000_001, 0, 0, 0]), ALLOW);
        assert_eq!(run(&program, NATIVE, 257, [0, 0, 0o1101, 0, 0, 0]), NOTIFY);
        assert_eq!(run(&filter(Mode::Fast), NATIVE, 257, [0, 0, 0o1101, 0, 0, 0]), ALLOW);
        assert_eq!(run(&program, NATIVE, 157, [22, 0, 0, 0, 0, 0]), ALLOW);
        // Times of a link itself.
        assert_eq!(run(&program, NATIVE, 280, [0, 0, 0, 0x100, 0, 0]), NOTIFY);
        assert_eq!(run(&program, NATIVE, 280, [0, 0, 0, 0x1000, 0, 0]), ALLOW);
    }

    #[test]
    fn rings_are_where_nothing_is_recorded() {
        let answers = [Mode::Consistent, Mode::Devices, Mode::Fast]
            .map(|mode| run(&filter(mode), NATIVE, 425, [0; 6]));
        assert_eq!(answers, [NO_SUCH_CALL, NO_SUCH_CALL, ALLOW]);
    }

    #[test]
    fn who_a_process_is_nobody_sets() {
        let program = filter(Mode::Consistent);
        for (number, args, answer) in [
            (160, [LOCKS, 1, 0, 0, 0, 0], SUCCESS),
            (160, [7, 1, 0, 0, 0, 0], ALLOW),
            (302, [0, LOCKS, 1, 0, 0, 0], SUCCESS),
            (302, [0, LOCKS, 0, 1, 0, 0], ALLOW),
            (302, [0, 7, 1, 0, 0, 0], ALLOW),
        ] {
            assert_eq!(run(&program, X86_64, number, args), answer, "{number} {args:?}");
            assert_eq!(run(&filter(Mode::Fast), X86_64, number, args), ALLOW);
        }
    }

    #[test]
    fn fifos_and_sockets_are_real() {
        let [fast, devices] = [Mode::Fast, Mode::Devices].map(filter);
        for real in [0o010_644, 0o140_644, 0o100_644, 0o644] {
            for program in [&fast, &devices] {
                assert_eq!(run(program, NATIVE, 259, [0, 0, real, 0, 0, 0]), ALLOW, "{real:o}");
            }
        }
        assert_eq!(run(&devices, NATIVE, 259, [0, 0, CHARACTER, 0, 0, 0]), NOTIFY);
        assert_eq!(run(&devices, NATIVE, 260, [0; 6]), ALLOW);
        assert_eq!(run(&devices, NATIVE, 262, [0; 6]), NOTIFY);
        assert_eq!(run(&devices, I386, 300, [0; 6]), NOTIFY);
        // chown(2) with ids of 16 bits, and with all bits.
        let consistent = filter(Mode::Consistent);
        assert_eq!(run(&consistent, I386, 182, [0; 6]), NOTIFY);
        assert_eq!(run(&consistent, I386, 212, [0; 6]), NOTIFY);
    }
}

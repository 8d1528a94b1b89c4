//! What a program may not call, and why. Sources: the syscall table of x86-64, and the man page of each call.
//!
//! Only the low 32 bits of an argument are compared: the kernel takes each of the arguments named here as an int.

use libc::{EAFNOSUPPORT, ENOSYS, EPERM};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Errno(i32),
    /// The call waits until the supervisor has read both pipes, then goes on as it was.
    Notify,
}

/// A condition on an argument (0 to 5). A rule without tests always holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    Is(u8, u32),
    IsNot(u8, u32),
    /// Any bit of the mask.
    Has(u8, u32),
}

impl Test {
    pub fn arg(&self) -> u8 {
        match *self {
            Test::Is(arg, _) | Test::IsNot(arg, _) | Test::Has(arg, _) => arg,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub name: &'static str,
    pub nr: i64,
    pub tests: &'static [Test],
    pub action: Action,
    pub reason: &'static str,
}

const REFUSE: Action = Action::Errno(EPERM);
const ABSENT: Action = Action::Errno(ENOSYS);

macro_rules! rules {
    ($( $name:ident $([$($test:expr),*])? => $action:expr, $reason:literal; )*) => {
        &[$( Rule {
            name: stringify!($name),
            nr: concat_nr!($name),
            tests: &[$($($test),*)?],
            action: $action,
            reason: $reason,
        } ),*]
    };
}

macro_rules! concat_nr {
    ($name:ident) => {
        nr::$name
    };
}

/// Call numbers under their plain names; those that libc doesn't know are from the kernel's syscall_64.tbl.
mod nr {
    #![allow(non_upper_case_globals)]
    macro_rules! from_libc {
        ($($name:ident = $constant:ident),* $(,)?) => { $( pub(super) const $name: i64 = libc::$constant; )* };
    }
    from_libc!(
        write = SYS_write,
        writev = SYS_writev,
        pwritev2 = SYS_pwritev2,
        sendfile = SYS_sendfile,
        splice = SYS_splice,
        tee = SYS_tee,
        vmsplice = SYS_vmsplice,
        io_uring_setup = SYS_io_uring_setup,
        io_uring_enter = SYS_io_uring_enter,
        io_uring_register = SYS_io_uring_register,
        io_setup = SYS_io_setup,
        io_submit = SYS_io_submit,
        ptrace = SYS_ptrace,
        process_vm_readv = SYS_process_vm_readv,
        process_vm_writev = SYS_process_vm_writev,
        pidfd_getfd = SYS_pidfd_getfd,
        kcmp = SYS_kcmp,
        process_madvise = SYS_process_madvise,
        process_mrelease = SYS_process_mrelease,
        migrate_pages = SYS_migrate_pages,
        move_pages = SYS_move_pages,
        prlimit64 = SYS_prlimit64,
        sched_setscheduler = SYS_sched_setscheduler,
        sched_setparam = SYS_sched_setparam,
        sched_setattr = SYS_sched_setattr,
        sched_setaffinity = SYS_sched_setaffinity,
        setpriority = SYS_setpriority,
        ioprio_set = SYS_ioprio_set,
        clone = SYS_clone,
        clone3 = SYS_clone3,
        unshare = SYS_unshare,
        setns = SYS_setns,
        mount = SYS_mount,
        umount2 = SYS_umount2,
        pivot_root = SYS_pivot_root,
        chroot = SYS_chroot,
        open_tree = SYS_open_tree,
        move_mount = SYS_move_mount,
        fsopen = SYS_fsopen,
        fsconfig = SYS_fsconfig,
        fsmount = SYS_fsmount,
        fspick = SYS_fspick,
        mount_setattr = SYS_mount_setattr,
        open_by_handle_at = SYS_open_by_handle_at,
        name_to_handle_at = SYS_name_to_handle_at,
        quotactl = SYS_quotactl,
        swapon = SYS_swapon,
        swapoff = SYS_swapoff,
        fanotify_init = SYS_fanotify_init,
        bpf = SYS_bpf,
        perf_event_open = SYS_perf_event_open,
        userfaultfd = SYS_userfaultfd,
        keyctl = SYS_keyctl,
        add_key = SYS_add_key,
        request_key = SYS_request_key,
        kexec_load = SYS_kexec_load,
        kexec_file_load = SYS_kexec_file_load,
        init_module = SYS_init_module,
        finit_module = SYS_finit_module,
        delete_module = SYS_delete_module,
        reboot = SYS_reboot,
        acct = SYS_acct,
        syslog = SYS_syslog,
        iopl = SYS_iopl,
        ioperm = SYS_ioperm,
        settimeofday = SYS_settimeofday,
        clock_settime = SYS_clock_settime,
        clock_adjtime = SYS_clock_adjtime,
        adjtimex = SYS_adjtimex,
        vhangup = SYS_vhangup,
        sethostname = SYS_sethostname,
        setdomainname = SYS_setdomainname,
        personality = SYS_personality,
        ioctl = SYS_ioctl,
        socket = SYS_socket,
        socketpair = SYS_socketpair,
    );
    pub(super) const quotactl_fd: i64 = 443;
    pub(super) const open_tree_attr: i64 = 467;
}

/// CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
const TIOCSETD: u32 = 0x5423;
const ANY: u32 = u32::MAX;
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;

use Action::Notify;
use Test::{Has, Is, IsNot};

#[rustfmt::skip]
pub const RULES: &[Rule] = rules! {
    // Exact order: whatever can put bytes into a pipe is announced first. A descriptor's number says nothing about the
    // stream behind it, so every descriptor counts. pwrite, pwritev and copy_file_range refuse pipes; send* needs a socket.
    write => Notify, "writes to a pipe";
    writev => Notify, "writes to a pipe";
    pwritev2 => Notify, "with offset -1 it writes to a pipe like writev";
    sendfile => Notify, "writes a file into a pipe";
    splice => Notify, "moves bytes into a pipe";
    tee => Notify, "copies one pipe into another";
    vmsplice => Notify, "maps memory into a pipe";

    // Ways to write that no filter sees.
    io_uring_setup => ABSENT, "writes without a call that could be announced";
    io_uring_enter => ABSENT, "as io_uring_setup";
    io_uring_register => ABSENT, "as io_uring_setup";
    io_setup => ABSENT, "io_submit writes to pipes unannounced";
    io_submit => ABSENT, "writes to pipes unannounced";

    // The supervisor and init: reading, stopping, starving or limiting another process.
    ptrace => REFUSE, "reaches into other processes";
    process_vm_readv => REFUSE, "reads other processes' memory";
    process_vm_writev => REFUSE, "writes other processes' memory";
    pidfd_getfd => REFUSE, "takes other processes' descriptors";
    kcmp => REFUSE, "compares other processes' kernel objects";
    process_madvise => REFUSE, "pages other processes' memory out";
    process_mrelease => REFUSE, "frees other processes' memory";
    migrate_pages [IsNot(0, 0)] => REFUSE, "moves other processes' memory";
    move_pages [IsNot(0, 0)] => REFUSE, "moves other processes' memory";
    prlimit64 [IsNot(0, 0)] => REFUSE, "a CPU or file limit on another process ends or cripples it";
    sched_setscheduler [IsNot(0, 0)] => REFUSE, "SCHED_IDLE on another process starves it";
    sched_setparam [IsNot(0, 0)] => REFUSE, "as sched_setscheduler";
    sched_setattr [IsNot(0, 0)] => REFUSE, "as sched_setscheduler";
    sched_setaffinity [Is(0, 1)] => REFUSE, "pins pid 1; threads may still pin themselves by their ids";
    setpriority [IsNot(0, 0)] => REFUSE, "a group or a user includes pid 1";
    setpriority [IsNot(1, 0)] => REFUSE, "lowers another process";
    ioprio_set [IsNot(0, 1)] => REFUSE, "a group or a user includes pid 1";
    ioprio_set [IsNot(1, 0)] => REFUSE, "lowers another process";

    // New namespaces bring capabilities over kernel code that is otherwise out of reach.
    clone [Has(0, NEW_NAMESPACES)] => REFUSE, "new namespaces";
    clone3 => ABSENT, "its flags lie in memory, where a filter can't look; the C libraries fall back to clone";
    unshare => REFUSE, "new namespaces";
    setns => REFUSE, "other namespaces";

    // Mounts and file handles.
    mount => REFUSE, "changes the file tree";
    umount2 => REFUSE, "uncovers what a mount hides";
    pivot_root => REFUSE, "changes the file tree";
    chroot => REFUSE, "changes the file tree";
    open_tree => REFUSE, "changes the file tree";
    open_tree_attr => REFUSE, "changes the file tree";
    move_mount => REFUSE, "changes the file tree";
    fsopen => REFUSE, "changes the file tree";
    fsconfig => REFUSE, "changes the file tree";
    fsmount => REFUSE, "changes the file tree";
    fspick => REFUSE, "changes the file tree";
    mount_setattr => REFUSE, "changes the file tree";
    open_by_handle_at => REFUSE, "opens files that no path leads to";
    name_to_handle_at => REFUSE, "makes handles for open_by_handle_at";
    quotactl => REFUSE, "file system administration";
    quotactl_fd => REFUSE, "file system administration";
    swapon => REFUSE, "system administration";
    swapoff => REFUSE, "system administration";
    fanotify_init => REFUSE, "watches whole file systems";

    // Kernel code with a long record of holes, or of the whole machine.
    bpf => REFUSE, "loads code into the kernel";
    perf_event_open => REFUSE, "measures other processes and the kernel";
    userfaultfd => REFUSE, "holds the kernel up in the middle of a copy";
    keyctl => REFUSE, "keyrings are not fully namespaced";
    add_key => REFUSE, "keyrings are not fully namespaced";
    request_key => REFUSE, "keyrings are not fully namespaced";
    kexec_load => REFUSE, "system administration";
    kexec_file_load => REFUSE, "system administration";
    init_module => REFUSE, "system administration";
    finit_module => REFUSE, "system administration";
    delete_module => REFUSE, "system administration";
    reboot => REFUSE, "system administration";
    acct => REFUSE, "system administration";
    syslog => REFUSE, "reads the kernel's log";
    iopl => REFUSE, "hardware";
    ioperm => REFUSE, "hardware";
    settimeofday => REFUSE, "the machine's clock";
    clock_settime => REFUSE, "the machine's clock";
    clock_adjtime => REFUSE, "the machine's clock";
    adjtimex => REFUSE, "the machine's clock";
    vhangup => REFUSE, "terminals of others";
    sethostname => REFUSE, "nothing a program needs";
    setdomainname => REFUSE, "nothing a program needs";
    personality [IsNot(0, 0), IsNot(0, ANY), IsNot(0, 0x0004_0000)] => REFUSE,
        "odd personalities weaken memory protection; asking, resetting and ADDR_NO_RANDOMIZE stay";
    ioctl [Is(1, TIOCSTI)] => REFUSE, "types into a terminal as if from its keyboard";
    ioctl [Is(1, TIOCLINUX)] => REFUSE, "pastes into a console";
    ioctl [Is(1, TIOCSETD)] => REFUSE, "loads line disciplines, kernel code with a long record of holes";

    // Sockets: the network namespace is empty, but not every family respects it.
    socket [IsNot(0, AF_UNIX), IsNot(0, AF_INET), IsNot(0, AF_INET6), IsNot(0, AF_NETLINK)] =>
        Action::Errno(EAFNOSUPPORT), "AF_VSOCK reaches the hypervisor; AF_ALG, AF_PACKET and others are kernel code nobody needs";
    socket [Is(0, AF_NETLINK), IsNot(2, 0)] => Action::Errno(EAFNOSUPPORT), "of netlink only routes, which getaddrinfo reads";
    socketpair [IsNot(0, AF_UNIX)] => Action::Errno(EAFNOSUPPORT), "as socket";
};

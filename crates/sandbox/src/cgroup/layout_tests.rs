use super::*;

fn temp(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("lastword-layout-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("temp dir");
    path
}

#[test]
fn mountinfo_lines_are_read_with_and_without_optional_fields() {
    let v1 = "36 31 0:33 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory";
    let mount = parse_mount(v1).expect("v1 line");
    assert_eq!((mount.root.as_str(), mount.v2), ("/", false));
    assert_eq!(mount.options, ["rw", "memory"]);
    let v2 = "41 31 0:38 /a /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate";
    let mount = parse_mount(v2).expect("v2 line");
    assert_eq!((mount.root.as_str(), mount.v2), ("/a", true));
    assert_eq!(parse_mount("22 27 0:21 / /proc rw - proc proc rw"), None);
    assert_eq!(parse_mount("garbage"), None);
    assert_eq!(parse_mount("1 2 3 - cgroup"), None);
}

#[test]
fn a_v1_group_goes_below_our_own() {
    let base = temp("v1");
    fs::create_dir_all(base.join("memory/mine")).expect("dirs");
    let mountinfo = format!("36 31 0:33 / {}/memory rw - cgroup cgroup rw,memory", base.display());
    let layout = Layout::from_proc(&mountinfo, "4:memory:/mine\n");
    assert_eq!(layout.v1[&Controller::Memory], base.join("memory/mine"));
    assert_eq!(layout.kind(), "v1");
    assert!(layout.problems.contains_key(&Controller::Pids));
    let limits = GroupLimits { memory_bytes: Some(1 << 20), pids: Some(9), ..Default::default() };
    let groups = layout.groups(&[0xab; 16], &limits);
    assert_eq!(groups.len(), 1, "pids can't be had here, so there is no group for it");
    assert!(groups[0].path.ends_with(directory_name(&[0xab; 16]).as_bytes()));
    fs::remove_dir_all(base).expect("clean up");
}

#[test]
fn in_a_container_the_mounts_own_part_of_the_path_is_taken_off() {
    let mount = Mount { root: "/docker/x".into(), point: "/cg".into(), v2: false, options: vec![] };
    assert_eq!(below(&mount, "/docker/x/y"), Path::new("/cg/y"));
    assert_eq!(below(&mount, "/docker/x"), Path::new("/cg/"));
    assert_eq!(below(&mount, "/elsewhere"), Path::new("/cg/"));
}

#[test]
fn a_delegated_v2_group_is_used_and_left_by_ourselves() {
    let base = temp("v2");
    let own = base.join("user.slice/run.scope");
    fs::create_dir_all(&own).expect("dirs");
    for (file, text) in [
        ("cgroup.controllers", "cpu memory pids\n"),
        ("cgroup.subtree_control", ""),
        ("cgroup.procs", &format!("{}\n", std::process::id())),
    ] {
        fs::write(own.join(file), text).expect("file");
    }
    let mountinfo = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw", base.display());
    let layout = Layout::from_proc(&mountinfo, "0::/user.slice/run.scope\n");
    // A plain directory keeps the last write only; the kernel would collect them.
    let (parent, controllers) = layout.v2.clone().expect("found");
    assert_eq!(parent, own);
    assert!(!controllers.is_empty());
    assert!(own.join(OWN_LEAF).join("cgroup.procs").exists(), "we moved to a leaf");
    fs::remove_dir_all(base).expect("clean up");
}

#[test]
fn without_delegation_the_problem_names_the_command_that_helps() {
    let base = temp("v2none");
    let own = base.join("session.scope");
    fs::create_dir_all(&own).expect("dirs");
    fs::write(own.join("cgroup.controllers"), "memory pids\n").expect("file");
    fs::write(own.join("cgroup.subtree_control"), "").expect("file");
    fs::write(own.join("cgroup.procs"), "1\n2\n").expect("file");
    let mut layout = Layout::default();
    let mount = Mount { root: "/".into(), point: base.clone(), v2: true, options: vec![] };
    // Not through from_proc: as root the top of the hierarchy would be tried as well.
    let own_text = "0::/session.scope\n";
    assert!(prepare_v2(&own, &own).is_err(), "others are in it");
    layout.find_v2(std::slice::from_ref(&mount), own_text);
    if layout.v2.is_none() {
        assert!(layout.problems[&Controller::Memory].contains("systemd-run"));
    }
    fs::remove_dir_all(base).expect("clean up");
}

#[test]
fn v2_settings_hold_all_limits_in_one_group() {
    let limits = GroupLimits { memory_bytes: Some(1 << 20), pids: Some(9), cpus: Some(0.5), cpu_time: true };
    let layout = Layout {
        v2: Some(("/cg".into(), vec![Controller::Memory, Controller::Pids, Controller::Cpu])),
        ..Layout::default()
    };
    let groups = layout.groups(&[1; 16], &limits);
    assert_eq!(groups.len(), 1);
    let settings: Vec<(String, String)> = groups[0]
        .settings
        .iter()
        .map(|(k, v)| (String::from_utf8_lossy(k).into(), String::from_utf8_lossy(v).into()))
        .collect();
    assert!(settings.contains(&("cpu.max".into(), "50000 100000".into())), "{settings:?}");
    assert!(settings.contains(&("memory.max".into(), (1 << 20).to_string())));
    assert!(groups[0].meters.contains(&Meter::CpuStat));
}

#[test]
fn a_v2_group_meters_cpu_time_also_without_a_limit_on_it() {
    let limits = GroupLimits { memory_bytes: Some(1 << 20), ..GroupLimits::default() };
    let mut layout =
        Layout { v2: Some(("/cg".into(), vec![Controller::Memory, Controller::Pids])), ..Layout::default() };
    assert!(layout.groups(&[1; 16], &limits)[0].meters.contains(&Meter::CpuStat));
    assert_eq!(layout.groups(&[1; 16], &GroupLimits::default()), [], "no group for the meter alone");
    // Side by side with v1, that one keeps the time.
    layout.v1.insert(Controller::Cpuacct, "/v1".into());
    assert!(!layout.groups(&[1; 16], &limits)[0].meters.contains(&Meter::CpuStat));
}

#[test]
fn controllers_that_are_mounted_together_share_one_group() {
    let layout = Layout {
        v1: BTreeMap::from([
            (Controller::Cpu, "/cg/cpu,cpuacct".into()),
            (Controller::Cpuacct, "/cg/cpu,cpuacct".into()),
            (Controller::Pids, "/cg/pids".into()),
        ]),
        ..Layout::default()
    };
    let limits = GroupLimits { cpus: Some(1.0), pids: Some(9), cpu_time: true, ..Default::default() };
    let groups = layout.groups(&[1; 16], &limits);
    let mut paths: Vec<_> = groups.iter().map(|group| group.path.0.clone()).collect();
    paths.dedup();
    assert_eq!(paths.len(), groups.len(), "a directory can be made only once");
    assert_eq!(groups.len(), 2);
    assert!(groups[0].meters.contains(&Meter::CpuacctUsage) && groups[0].settings.len() == 2);
}

#[test]
fn the_runs_of_roots_service_go_beside_it() {
    let point = Path::new("/cg");
    let of = |own: &str| v2_parents(point, Path::new(own));
    let beside = Path::new("/cg/system.slice/lastword");
    if sys::geteuid() == 0 {
        assert_eq!(of("/cg/system.slice/lastword.service")[0], beside);
        assert_eq!(of("/cg/user.slice/run.scope")[0], Path::new("/cg/user.slice/run.scope"));
    } else {
        assert_eq!(of("/cg/system.slice/lastword.service"), [Path::new("/cg/system.slice/lastword.service")]);
    }
}

//! Whom an image wants to be, by files of its own.

use lastword_image::Image;
use lastword_image::limits::USERS_FILE_BYTES_MAX;

use crate::lab::{Lab, assert_has, chain};
use crate::pack::{Packed, Tar};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\nshort\n1234:x:5:6::/five:\n\
    app:x:1000:1001:,,,:/home/app:/bin/sh\napp:x:0:0::/:\nbad:x:-1:0::/:\nlast:x:4294967295:0::/:\nnohome:x:7:8";
const GROUP: &str = "root:x:0:\nstaff:x:50:app\n60:x:61:\nbad:x:x:\n";

fn image(lab: &Lab, layer: Tar) -> Image {
    lab.unpack(&mut Packed::plain(&[layer.end()])).unwrap()
}

#[test]
fn names_and_numbers_are_resolved_as_docker_does() {
    let lab = Lab::new();
    let image = image(&lab, Tar::new().file("etc/passwd", PASSWD).file("etc/group", GROUP));
    for (user, uid, gid, home) in [
        ("", 0, 0, "/root"),
        ("root", 0, 0, "/root"),
        ("app", 1000, 1001, "/home/app"),
        ("1000", 1000, 1001, "/home/app"),
        ("1234", 5, 6, "/five"),
        ("4242", 4242, 0, "/"),
        ("4242:4343", 4242, 4343, "/"),
        ("app:staff", 1000, 50, "/home/app"),
        ("app:60", 1000, 61, "/home/app"),
        (":staff", 0, 50, "/root"),
        ("app:", 1000, 1001, "/home/app"),
        ("nohome", 7, 8, "/"),
    ] {
        let found = image.resolve_user(user).map_err(|error| chain(&error)).unwrap();
        assert_eq!((found.uid, found.gid, found.home.as_str()), (uid, gid, home), "{user}");
    }
    // As the config has it: `1000:7`.
    assert_eq!(image.user().unwrap().gid, 7);
    for user in [
        "nobody",
        "bad",
        "last",
        "short",
        "app:none",
        "app:bad",
        "-1",
        "4294967295",
        "99999999999",
        "+5",
        "a\x1b:",
    ] {
        assert_has(&chain(&image.resolve_user(user).expect_err(user)), &["user", "etc/"]);
    }
}

#[test]
fn hostile_files_are_survived() {
    let lab = Lab::new();
    // Nothing of the host is read: an absolute link leads to a name in the image.
    let none = image(
        &lab,
        Tar::new().symlink("etc/passwd", "/etc/hostname").symlink("etc/group", "../../../etc/group"),
    );
    assert_eq!(none.resolve_user("5").unwrap().home, "/");
    none.resolve_user("root").expect_err("no such file in it");
    let through = image(&lab, Tar::new().symlink("etc", "/conf").file("conf/passwd", PASSWD));
    assert_eq!(through.resolve_user("app").unwrap().uid, 1000);
    for layer in [
        Tar::new().dir("etc/passwd"),
        Tar::new().symlink("etc/passwd", "passwd"),
        Tar::new().file("etc/passwd", vec![b'x'; USERS_FILE_BYTES_MAX as usize + 1]),
    ] {
        assert_has(&chain(&image(&lab, layer).resolve_user("5").expect_err("no file")), &["etc/passwd"]);
    }
    let binary =
        image(&lab, Tar::new().file("etc/passwd", b"a:x:5:6::/\xff:\nb:x:5:6::home:\n:::\n\xff".as_slice()));
    assert_eq!(binary.resolve_user("a").unwrap().home, "/");
    assert_eq!(binary.resolve_user("b").unwrap().home, "/");
}

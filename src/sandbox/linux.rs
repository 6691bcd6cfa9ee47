//! Linux: Landlock, landlock(7).

use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::prctl;

use super::Access;
use crate::sys::landlock::{self, Rights};

pub(super) fn confine(folders: &[(BorrowedFd<'_>, Access)], port: Option<u16>) -> io::Result<()> {
    prctl::set_no_new_privs()?;
    let rules = landlock::Ruleset::new()?;
    for (folder, access) in folders {
        rules.allow(folder, rights(*access))?;
    }
    if let Some(port) = port
        && landlock::knows_networks()
    {
        rules.allow_connecting(port)?;
    }
    rules.restrict()
}

fn rights(access: Access) -> Rights {
    match access {
        Access::Read => Rights::READ_FILE,
        Access::Change => {
            Rights::READ_FILE | Rights::WRITE_FILE | Rights::MAKE_FILE | Rights::REMOVE_FILE
        }
        Access::Remove => Rights::REMOVE_FILE,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::thread;

    use super::*;

    #[test]
    fn nothing_but_the_folders_is_reached_and_only_as_was_said() {
        if landlock::Ruleset::new().is_err() {
            eprintln!("SKIPPED: this kernel has no Landlock");
            return;
        }
        let own = format!("petrel-sandbox-{}", std::process::id());
        let place = std::env::temp_dir().join(own);
        for folder in ["read", "change", "remove", "other"] {
            fs::create_dir_all(place.join(folder)).unwrap();
            fs::write(place.join(folder).join("file"), "content").unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inside = place.clone();
        // It is the thread that is confined.
        let confined = thread::spawn(move || {
            let open = |folder| File::open(inside.join(folder)).unwrap();
            let folders = [open("read"), open("change"), open("remove")];
            let access = [Access::Read, Access::Change, Access::Remove];
            let rules: Vec<_> = folders.iter().map(AsFd::as_fd).zip(access).collect();
            confine(&rules, Some(port)).unwrap();

            let denied = |result: io::Result<()>| {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
            };
            let file = |folder: &str| inside.join(folder).join("file");
            let new = |folder: &str| inside.join(folder).join("new");
            for folder in ["read", "change", "remove", "other"] {
                let read = fs::read(file(folder)).map(drop);
                let write = File::options().append(true).open(file(folder)).map(drop);
                let make = File::create(new(folder)).map(drop);
                let remove = fs::remove_file(file(folder));
                let results = [read, write, make, remove];
                let allowed = match folder {
                    "read" => [true, false, false, false],
                    "change" => [true; 4],
                    "remove" => [false, false, false, true],
                    _ => [false; 4],
                };
                for (result, allowed) in results.into_iter().zip(allowed) {
                    if allowed {
                        result.unwrap();
                    } else {
                        denied(result);
                    }
                }
            }
            denied(fs::read("/etc/passwd").map(drop));
            TcpStream::connect(("127.0.0.1", port)).unwrap();
            if landlock::knows_networks() {
                denied(TcpStream::connect(("127.0.0.1", 9)).map(drop));
            }
        });
        confined.join().unwrap();
        fs::remove_dir_all(&place).unwrap();
    }
}

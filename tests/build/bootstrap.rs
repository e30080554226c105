//! Systems from a distribution's packages.

use harness::Place;

/// A distribution of one essential package, whose dpkg only says what it is
/// asked for, and one more; signed by a key of its own.
const REPOSITORY: &str = r#"set -e
mkdir -p base/DEBIAN base/bin base/usr/bin base/usr/share/base-passwd base/etc/apt base/lib extra/DEBIAN extra/opt
cp /bin/busybox base/bin/busybox
for name in sh ls cat cp ln rm mkdir chmod printf stat id; do ln -s busybox base/bin/$name; done
echo 'root:x:0:0::/root:/bin/sh' >base/usr/share/base-passwd/passwd.master
echo 'root:x:0:' >base/usr/share/base-passwd/group.master
printf '#!/bin/sh\necho "$*" >>/dpkg-log\ntouch() { :; }\n' >base/usr/bin/dpkg
chmod 755 base/usr/bin/dpkg
printf 'Package: tiny-base\nVersion: 1:1.0-1\nArchitecture: amd64\nMaintainer: a <a@b>\nEssential: yes\nProvides: apt\nDescription: x\n' >base/DEBIAN/control
echo extra >extra/opt/extra
printf 'Package: extra\nVersion: 2\nArchitecture: all\nMaintainer: a <a@b>\nDepends: tiny-base (>= 1:1)\nDescription: x\n' >extra/DEBIAN/control
mkdir -p repo/pool repo/dists/tiny/main/binary-amd64
dpkg-deb --root-owner-group -Zxz -b base repo/pool/tiny-base.deb >/dev/null
dpkg-deb --root-owner-group -Zgzip -b extra repo/pool/extra.deb >/dev/null
export GNUPGHOME=$PWD/gnupg; mkdir -m 700 gnupg
gpg --batch --quiet --passphrase '' --quick-generate-key 'tiny <t@b>' rsa3072 sign 2>/dev/null
gpg --export >tiny.gpg
gpg --armor --export >tiny.asc
sign() {
    index=main/binary-amd64/Packages.xz
    cd repo
    dpkg-scanpackages --multiversion pool 2>/dev/null | xz -c >dists/tiny/$index
    cd dists/tiny
    {
        printf 'Suite: stable\nCodename: tiny\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n%sSHA256:\n' "$1"
        echo " $(sha256sum <$index | cut -d' ' -f1) $(stat -c %s $index) $index"
    } >Release
    gpg --batch --quiet --yes --clearsign -o InRelease Release
    cd ../../..
}
sign ''
gpgconf --kill all
"#;

fn definition(url: &str, more: &str) -> String {
    format!("Bootstrap: debootstrap\nOSVersion: tiny\nMirrorURL: {url}\n{more}")
}

#[test]
fn a_release_is_taken_only_as_it_was_signed() {
    let place = Place::new();
    let _ = place.shell(REPOSITORY).ok();
    let url = harness::serve(&place.path("work/repo"));
    let build = |more: &str| {
        place.write("work/a.def", definition(&url, more));
        place.sampan(&["build", "--progress", "quiet", "-t", "tiny", "-f", "a.def", "."])
    };
    let good = "Keyring: tiny.gpg\nInclude: extra\n\n%post\n    cat /dpkg-log >/log\n";
    let _ = build(good).ok();
    let look = "cat /log /opt/extra /etc/apt/sources.list; stat -c '%u:%g %a' /bin/busybox; \
                ls -l / | grep bin";
    let out = place.sampan(&["exec", "tiny", "sh", "-c", look]).ok();
    assert!(out.contains("0000_tiny-base.deb") && out.contains("--configure"), "{out}");
    assert!(out.contains("signed-by=/etc/apt/keyrings/bootstrap.gpg"), "{out}");
    assert!(out.contains("extra\n") && out.contains("bin -> usr/bin"), "{out}");

    // Nothing of these is in the cache, and nothing of what follows may be used.
    let refused = |more: &str, words: &[&str]| {
        let err = build(more).fails(1);
        for word in words {
            assert!(err.contains(word), "{word}: {err}");
        }
        assert!(!place.sampan(&["images"]).ok().contains("other"), "{more}");
    };
    refused("Include: extra zlib\nKeyring: tiny.asc\n", &["zlib", "the recipe"]);
    refused("Include: extra\n", &["InRelease is not trusted", "not in the keyring"]);
    refused("Keyring: a.def\nInclude: extra\n", &["keyring", "a.def"]);
    refused("Keyring: tiny.asc\nComponents: contrib\n", &["contrib/binary-amd64/Packages"]);
    refused("Keyring: tiny.asc\nVariant: gigantic\n", &["gigantic"]);

    let keyring = "Keyring: tiny.asc\nInclude: extra\n";
    let change = |script: &str| place.shell(&format!("cp -a repo kept; {script}")).ok();
    let restore = || place.shell("rm -r repo; mv kept repo").ok();
    change("printf X | dd of=repo/pool/extra.deb bs=1 seek=200 conv=notrunc 2>/dev/null");
    refused(keyring, &["extra.deb", "SHA-256"]);
    restore();
    change("cat tiny.gpg >>repo/pool/extra.deb");
    refused(keyring, &["extra.deb", "more than"]);
    restore();
    change("truncate -s -9 repo/dists/tiny/main/binary-amd64/Packages.xz");
    refused(keyring, &["Packages.xz", "bytes, not"]);
    restore();
    change("sed -i 's/^Suite: stable/Suite: stabl3/' repo/dists/tiny/InRelease");
    refused(keyring, &["InRelease", "what it signs has changed"]);
    restore();
    change("cp -r repo/dists/tiny repo/dists/other");
    place.write(
        "work/b.def",
        definition(&url, keyring).replace("OSVersion: tiny", "OSVersion: other"),
    );
    let err = place.sampan(&["build", "-f", "b.def", "."]).fails(1);
    assert!(err.contains("it is of stable (tiny)"), "{err}");
    restore();
    let sign = REPOSITORY.split_once("sign() {").unwrap().1.replace("sign ''", "");
    change(&format!(
        "export GNUPGHOME=$PWD/gnupg; sign() {{{sign}\n\
         sign 'Valid-Until: Fri, 02 Jan 2026 00:00:00 UTC\n'; gpgconf --kill all"
    ));
    refused(keyring, &["valid until Fri, 02 Jan 2026", "Check-Valid-Until"]);
    let _ = build(&format!("{keyring}Check-Valid-Until: no\n")).ok();
}

/// The machine's own mirror and keyring.
#[test]
fn debian_is_installed_from_the_mirror_of_this_host() {
    let place = Place::new();
    let release = place.shell(". /etc/os-release; echo $VERSION_CODENAME").ok();
    let text = format!(
        "Bootstrap: debootstrap\nOSVersion: {}\nInclude: sudo\n\n%post\n\
         \x20   test -z \"$(dpkg --audit)\"\n    dpkg --verify\n    test ! -e /var/log/dpkg.log\n\
         \x20   stat -c '%n %u:%g %a' /etc/shadow /usr/bin/sudo /var/mail /etc/sudoers >/owners\n\
         \x20   apt-get update -q && apt-get install -qy --no-install-recommends hostname\n",
        release.trim()
    );
    place.write("work/a.def", text);
    let mut build = place.sampan_command(&["build", "-t", "debian", "-f", "a.def", "."]);
    let _ = harness::run(&mut build).ok();
    let look = "cat /owners; dpkg-query -W -f '${db:Status-Status}\\n' | sort -u; ls -ld /bin";
    let out = place.sampan(&["exec", "debian", "sh", "-c", look]).ok();
    for line in [
        "/etc/shadow 0:42 640",
        "/usr/bin/sudo 0:0 4755",
        "/var/mail 0:8 2775",
        "/etc/sudoers 0:0 440",
        "installed",
        "/bin -> usr/bin",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(!out.contains("half") && !out.contains("unpacked"), "{out}");
}

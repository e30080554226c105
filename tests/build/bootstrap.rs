//! Systems from a distribution's packages.

use harness::{Place, Ran};

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
        refuses(build(more), words);
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
    let _ = restore();
    // Keys that must not be used any more.
    let _ = change(
        "export GNUPGHOME=$PWD/gnupg; old='--faked-system-time 20200101T000000'
         gpg --batch --quiet $old --passphrase '' --quick-generate-key 'old <o@b>' rsa3072 sign 1y 2>/dev/null
         gpg --export old >old.gpg; cd repo/dists/tiny
         gpg --batch --quiet --yes $old -u old --clearsign -o InRelease Release; cd ../../..
         for f in gnupg/openpgp-revocs.d/*; do grep -q old $f && continue
             sed 's/^:---/---/' $f | gpg --batch --quiet --import 2>/dev/null || :; done
         gpg --export 'tiny <t@b>' >revoked.gpg; gpgconf --kill all",
    );
    refused("Keyring: old.gpg\nInclude: extra\n", &["InRelease is not trusted", "expired"]);
    let _ = restore();
    refused("Keyring: revoked.gpg\nInclude: extra\n", &["InRelease is not trusted", "revoked"]);
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

/// That a build failed, and said all of this.
#[track_caller]
pub(crate) fn refuses(ran: Ran, words: &[&str]) {
    let err = ran.fails(1);
    for word in words {
        assert!(err.contains(word), "{word}: {err}");
    }
}

/// An RPM distribution of Debian's own rpm and of busybox.
pub(crate) const RPMS: &str = r#"set -e
topdir=$PWD/rpmbuild; mkdir -p $topdir
spec() { # name, further lines, what is installed, files
    printf 'Name: %s\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nAutoReqProv: no\n%b\n%%description\nx\n%%install\n%b\n%b\n%%files\n%b\n' \
        "$1" "$2" "$3" "$5" "$4" >$1.spec
    rpmbuild --quiet --define "_topdir $topdir" --define 'debug_package %{nil}' \
        --define '__os_install_post %{nil}' --define '_build_id_links none' --target x86_64 -bb $1.spec
}
root='%{buildroot}'
spec filesystem 'Provides: system-release' "mkdir -p $root/usr/bin $root/usr/sbin $root/usr/lib $root/usr/lib64 $root/etc $root/var/lib $root/tmp $root/root; for d in bin sbin lib lib64; do ln -s usr/\$d $root/\$d; done; printf 'root:x:0:0::/root:/bin/sh\\nmail:x:8:8::/:/bin/sh\\n' >$root/etc/passwd; printf 'root:x:0:\\nmail:x:8:\\n' >$root/etc/group" \
    '/*' 
applets='cat chmod chown cp cut id ln ls mkdir mv printf rm stat test touch'
spec bash 'Provides: /bin/sh\nRequires: filesystem\nRequires: (extra if nosuch)' "mkdir -p $root/usr/bin; cp /bin/busybox $root/usr/bin/busybox; ln -s busybox $root/usr/bin/sh" '/usr/bin/*'
spec coreutils 'Requires: /bin/sh' "mkdir -p $root/usr/bin; for a in $applets; do ln -s busybox $root/usr/bin/\$a; done" '/usr/bin/*'
libraries=$(ldd /usr/bin/rpm | grep -o '/[^ ]*')
spec rpm 'Requires: coreutils >= 1' "mkdir -p $root/usr/bin $root/usr/lib; cp /usr/bin/rpm /usr/bin/rpmkeys $root/usr/bin; cp -r /usr/lib/rpm $root/usr/lib/rpm; for l in $(echo $libraries); do install -D \$l $root/usr/\$(echo \$l | sed 's#^/usr/##;s#^/##'); done" '/usr/*'
spec extra 'Requires: (coreutils and /bin/sh)' "mkdir -p $root/srv; echo extra >$root/srv/extra; ln $root/srv/extra $root/srv/same" '%attr(2640,root,mail) /srv/extra\n%attr(2640,root,mail) /srv/same' '%post\necho \"$(id -u) $(stat -c %%u:%%g /srv/extra)\" >/srv/post'
export GNUPGHOME=$PWD/gnupg; mkdir -m 700 gnupg
gpg --batch --quiet --passphrase '' --quick-generate-key 'tiny <t@b>' rsa3072 sign 2>/dev/null
gpg --armor --export >tiny.asc
mkdir -p repo/Packages; cp $topdir/RPMS/x86_64/*.rpm repo/Packages
cp repo/Packages/extra-1-1.x86_64.rpm unsigned.rpm
rpmsign --define '_gpg_name tiny' --define '__gpg /usr/bin/gpg' --addsign repo/Packages/*.rpm >/dev/null
createrepo_c -q repo
gpg --batch --quiet --armor --detach-sign repo/repodata/repomd.xml
gpg --batch --quiet --passphrase '' --quick-generate-key 'other <o@b>' rsa3072 sign 2>/dev/null
gpg --armor --export other >other.asc
gpgconf --kill all
"#;

#[test]
fn rpm_installs_what_its_keys_have_signed() {
    let place = Place::new();
    let _ = place.shell(RPMS).ok();
    let url = harness::serve(&place.path("work"));
    let build = |more: &str| {
        let text = format!("Bootstrap: dnf\nMirrorURL: {url}/repo\n{more}");
        place.write("work/a.def", text);
        place.sampan(&["build", "--progress", "quiet", "-t", "tiny", "-f", "a.def", "."])
    };
    let good = "Keyring: tiny.asc\nInclude: extra\n\n%post\n    /usr/bin/rpm -V extra rpm bash\n    \
                /usr/bin/rpm -qa >/packages\n    stat -c '%u:%g %a %h' /srv/same >>/srv/post\n";
    let _ = build(good).ok();
    let look = "cat /srv/post /packages /srv/same; ls -ld /bin; cat /etc/yum.repos.d/*; /usr/bin/rpm -q gpg-pubkey";
    let out = place.sampan(&["exec", "tiny", "sh", "-c", look]).ok();
    for line in [
        "0 0:8",
        "0:8 2640 2\n",
        "extra-1-1.x86_64\n",
        "bin -> usr/bin",
        "baseurl=http",
        "gpg-pubkey-",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    let refused = |more: &str, words: &[&str]| refuses(build(more), words);
    let keyring = "Keyring: tiny.asc\nInclude: extra coreutils\n";
    refused("Keyring: other.asc\n", &["repomd.xml is not trusted", "not in the keyring"]);
    refused("Keyring: tiny.asc\nInclude: nosuch\n", &["nosuch", "the recipe"]);
    let change = |script: &str| place.shell(&format!("cp -a repo kept; {script}")).ok();
    let restore = || place.shell("rm -r repo; mv kept repo").ok();
    let _ = change("echo >>repo/repodata/repomd.xml");
    refused(keyring, &["repomd.xml is not trusted", "has changed"]);
    let _ = restore();
    let _ = change("for f in repo/repodata/*primary.xml*; do truncate -s -5 $f; done");
    refused(keyring, &["primary.xml", "bytes, not"]);
    let _ = restore();
    let _ = change(
        "printf X | dd of=repo/Packages/extra-1-1.x86_64.rpm bs=1 seek=3000 conv=notrunc 2>/dev/null",
    );
    refused(keyring, &["extra-1-1.x86_64.rpm", "SHA-256"]);
    let _ = restore();
    // The index knows the package, but nobody has signed it.
    let again = "createrepo_c -q repo; rm -f repo/repodata/repomd.xml.asc";
    let _ = change(&format!("cp unsigned.rpm repo/Packages/extra-1-1.x86_64.rpm; {again}"));
    refused(keyring, &["package extra is not trusted", "not signed"]);
    let _ = restore();
    let size = "$(($(stat -c %s repo/Packages/extra-1-1.x86_64.rpm) - 20))";
    let _ = change(&format!(
        "printf X | dd of=repo/Packages/extra-1-1.x86_64.rpm bs=1 seek={size} conv=notrunc 2>/dev/null; {again}"
    ));
    refused(keyring, &["package extra is not trusted", "since it was signed"]);
    let _ = restore();
    let _ = change("rm repo/repodata/repomd.xml.asc");
    refused("Keyring: other.asc\n", &["is not trusted", "not in the keyring"]);
}

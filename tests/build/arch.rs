//! `Bootstrap: arch`: packages of pacman, as their keys have signed them.

use harness::Place;

use crate::bootstrap::refuses;

/// An Arch-like distribution of Debian's pacman and of busybox, in two repositories:
/// the signatures of one are in its database, of the other beside the packages. Its
/// packager is known by three owners, each trusted a little.
const REPOSITORY: &str = r#"set -e
core=repo/core/os/x86_64 extra=repo/extra/os/x86_64
mkdir -p $core $extra
package() { # directory, version, architecture, lines of .PKGINFO, what is the group 8's
    mkdir -p $1; cd $1
    printf 'pkgname = %s\npkgbase = %s\npkgver = %s\npkgdesc = x\nbuilddate = 1700000000\npackager = x\nsize = 1\narch = %s\n%b' $1 $1 $2 $3 "$4" >.PKGINFO
    tar --owner=0 --group=0 --numeric-owner -cf ../$1.tar .PKGINFO $(ls -d .INSTALL * 2>/dev/null)
    [ -z "$5" ] || tar --owner=0 --group=8 --numeric-owner -rf ../$1.tar $5
    cd ..
    case $1 in
    pacman) xz -1 -T0 $1.tar; mv $1.tar.xz $6/$1-$2-$3.pkg.tar.xz ;;
    *) zstd -q --rm $1.tar -o $6/$1-$2-$3.pkg.tar.zst ;;
    esac
}
mkdir -p filesystem/usr/bin filesystem/usr/sbin filesystem/usr/lib filesystem/usr/lib64 filesystem/etc filesystem/root filesystem/tmp filesystem/var
for d in bin sbin lib lib64; do ln -s usr/$d filesystem/$d; done
printf 'root:x:0:0::/root:/bin/sh\n' >filesystem/etc/passwd; printf 'root:x:0:\nmail:x:8:\n' >filesystem/etc/group
package filesystem 1-1 any 'backup = etc/passwd\n' '' $core
mkdir -p bash/usr/bin; cp /bin/busybox bash/usr/bin/busybox
for a in sh cat chmod chown cut echo id ln ls mkdir mv printf rm sed stat test touch true; do ln -s busybox bash/usr/bin/$a; done
package bash 5-1 x86_64 'provides = sh=5\ndepend = filesystem>=1\n' '' $core
mkdir -p pacman/usr/bin pacman/var/lib/pacman; cp /usr/bin/pacman /usr/bin/vercmp pacman/usr/bin
for l in $(ldd /usr/bin/pacman | grep -o '/[^ ]*'); do install -D $l pacman/usr/$(echo $l | sed 's#^/usr/##;s#^/##'); done
package pacman 6-1 x86_64 'depend = sh\n' '' $core
package base 3-1 any 'depend = filesystem\ndepend = sh>4\ndepend = pacman\n' '' $core
mkdir -p tool/srv; echo tool >tool/srv/tool; chmod 2640 tool/srv/tool; ln tool/srv/tool tool/srv/same
printf 'post_install() { echo "$1 $(id -u) $(stat -c %%u:%%g /srv/tool)" >/srv/post; }\n' >tool/.INSTALL
package tool 1:2.0-1 any 'group = tools\ndepend = engine\nconflict = steam\n' 'srv/same srv/tool' $extra
package steam 1-1 any 'provides = engine\n' '' $extra
package wind 1-1 any 'provides = engine\nconflict = calm\n' '' $extra
package calm 1-1 any '' '' $extra
# An older one of the first repository wins.
package bash 9-1 x86_64 '' '' $extra
export GNUPGHOME=$PWD/gnupg; mkdir -m 700 gnupg
key() { gpg --batch --quiet --passphrase '' --quick-generate-key "$1 <$1@b>" ed25519 $2 2>/dev/null; }
print() { gpg --with-colons --list-keys $1 | sed -n 's/^fpr:*\([^:]*\):$/\1/p' | head -1; }
for k in one two three; do key $k cert; done
for k in packager stranger; do key $k sign; done
for k in one two three; do gpg --batch --quiet --yes -u $k --quick-sign-key $(print packager) 2>/dev/null; done
gpg --export one two three packager stranger >tiny.gpg
for k in one two three; do echo "$(print $k):4:"; done >tiny-trusted
printf '# none\n' >tiny-revoked
gpg --export packager >packager.gpg
gpg --export stranger >stranger.gpg
sign() { rm -f "$1.sig"; gpg --batch --quiet -u packager --detach-sign "$1"; }
for f in $core/*.pkg.*; do sign $f; done
repo-add -q $core/core.db.tar.gz $core/*.pkg.tar.zst $core/*.pkg.tar.xz >/dev/null
repo-add -q $extra/extra.db.tar.zst $extra/*.pkg.tar.zst >/dev/null
rm -f $core/*.pkg*.sig; for f in $extra/*.pkg.*; do sign $f; done
sign $extra/extra.db
gpgconf --kill all
"#;

#[test]
fn pacman_installs_what_its_keys_have_signed() {
    let place = Place::new();
    place.write("work/make", REPOSITORY);
    let _ = place.shell("bash make").ok();
    let url = harness::serve(&place.path("work"));
    let text = |more: &str| format!("Bootstrap: arch\nMirrorURL: {url}/repo\n{more}");
    let build = |more: &str, flags: &[&str]| {
        place.write("work/a.def", text(more));
        let args = ["build", "--progress", "quiet", "-t", "tiny", "-f", "a.def"];
        place.sampan(&[&args[..], flags, &["."]].concat())
    };
    let good = "Keyring: tiny.gpg\nInclude: tools\n\n%post\n    cat /etc/pacman.d/mirrorlist >/list\n    \
                pacman() { /usr/bin/pacman --config /dev/null \"$@\"; }\n    \
                pacman -Q >/packages; pacman -Qe >/explicit; pacman -Qkq\n    \
                stat -c '%u:%g %a %h' /srv/same /srv/tool >>/srv/post\n";
    let first = crate::id(build(good, &["--timestamp", "1700000000"]));
    let look = "cat /srv/post /packages /srv/same; echo :; cat /explicit /list; ls -ld /bin; \
                ls -a /; cat /var/lib/pacman/local/*/desc";
    let out = place.sampan(&["exec", "tiny", "sh", "-c", look]).ok();
    for line in [
        "1:2.0-1 0 0:8\n",
        "0:8 2640 2\n0:8 2640 2\n",
        "bash 5-1\n",
        "wind 1-1\n",
        "tool\n:\nbase 3-1\ntool 1:2.0-1\n",
        "Server = http",
        "/repo/$repo/os/$arch\n",
        "bin -> usr/bin",
        "%INSTALLDATE%\n1700000000\n",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(
        !out.contains(".PKGINFO") && !out.contains("steam 1-1") && !out.contains("pacnew"),
        "{out}"
    );
    let again = build(good, &["--timestamp", "1700000000", "--no-cache"]);
    assert_eq!(crate::id(again), first, "the same packages gave another image");

    let refused = |more: &str, words: &[&str]| refuses(build(more, &[]), words);
    let keyring = "Keyring: tiny.gpg\nInclude: tool\n";
    refused("Keyring: stranger.gpg\n", &["extra.db is not trusted", "not in the keyring"]);
    refused("Keyring: gone.gpg\n", &["gone.gpg"]);
    refused("Keyring: tiny.gpg\nInclude: nosuch\n", &["nosuch", "the recipe"]);
    refused("Keyring: tiny.gpg\nInclude: wind calm\n", &["calm and wind", "together"]);
    let err = build("Keyring: tiny.gpg\nComponents: core testing\n", &[]).fails(3);
    assert!(err.contains("testing.db"), "{err}");
    // A keyring without lists trusts all of its keys.
    let _ = build("Keyring: packager.gpg\nInclude: calm\n", &[]).ok();

    let change = |script: &str| {
        let begin = "set -e; export GNUPGHOME=$PWD/gnupg; extra=repo/extra/os/x86_64; \
                     core=repo/core/os/x86_64; cp -a repo kept; cp tiny-trusted tiny-revoked kept";
        place.shell(&format!("{begin}; {script}; gpgconf --kill all")).ok()
    };
    let restore = || place.shell("mv kept/tiny-* .; rm -r repo; mv kept repo").ok();
    let tool = "$extra/tool-1:2.0-1-any.pkg.tar.zst";
    let _ = change("sed -i 1d tiny-trusted");
    refused(keyring, &["is not trusted", "not in the keyring"]);
    let _ = restore();
    let _ = change(
        "gpg --with-colons --list-keys packager | sed -n 's/^fpr:*\\([^:]*\\):$/\\1/p' | head -1 >tiny-revoked",
    );
    refused(keyring, &["is not trusted", "not in the keyring"]);
    let _ = restore();
    let _ = change(&format!("rm {tool}.sig"));
    refused(keyring, &["package tool is not trusted", "not signed"]);
    let _ = restore();
    let sign = "gpg --batch --quiet --yes -u stranger --detach-sign";
    let _ = change(&format!("{sign} {tool}"));
    refused(keyring, &["package tool is not trusted", "not in the keyring"]);
    let _ = restore();
    let _ = change(&format!("printf X | dd of={tool} bs=1 seek=50 conv=notrunc 2>/dev/null"));
    refused(keyring, &["tool-1:2.0-1-any.pkg.tar.zst", "SHA-256"]);
    // The database knows the new one, which nobody has signed again.
    let again = "zstd -dqf kept/extra/os/x86_64/tool-*.zst -o tool.tar; zstd -qf -9 tool.tar -o $extra/tool-*.zst; rm -f $extra/*.db* $extra/*.files*; mv $extra/*.sig .; \
                 repo-add -q $extra/extra.db.tar.gz $extra/*.pkg.tar.zst >/dev/null; \
                 mv *.pkg.tar.zst.sig $extra";
    let _ = place.shell(&format!("set -e; extra=repo/extra/os/x86_64; {again}")).ok();
    refused(keyring, &["package tool is not trusted", "what it signs has changed"]);
    let _ = restore();
    let _ = change("truncate -s -99 $core/core.db.tar.gz");
    refused(keyring, &["core.db is malformed"]);
    let _ = restore();
    let _ = change("truncate -s -9 $extra/extra.db.tar.zst");
    refused(keyring, &["extra.db is not trusted", "what it signs has changed"]);
    let _ = restore();
}

/// The keyring that Debian has of Arch Linux: packagers count by those who vouch.
#[test]
fn the_keyring_of_the_distribution_is_read_with_its_lists() {
    let place = Place::new();
    let url = harness::serve(&place.path("work"));
    let key = "set -e; mkdir -p repo/core/os/x86_64; echo x >repo/core/os/x86_64/core.db; export GNUPGHOME=$PWD/g; mkdir -m 700 g; \
               gpg --batch --quiet --passphrase '' --quick-generate-key a ed25519 sign 2>/dev/null; \
               gpg --detach-sign repo/core/os/x86_64/core.db; gpgconf --kill all";
    let _ = place.shell(key).ok();
    place.write("work/a.def", format!("Bootstrap: arch\nMirrorURL: {url}/repo\n"));
    let ran = place.sampan(&["build", "-f", "a.def", "."]);
    refuses(ran, &["core.db is not trusted", "not in the keyring"]);
}

//! Repositories of RPM packages as distributions publish them: behind lists of
//! mirrors, with files that only the full list knows.

use harness::Place;

use crate::bootstrap::{RPMS, refuses};

/// Beside the distribution of `RPMS`: a package that needs a file which the list of
/// packages does not have, the package that has it, and lists of mirrors.
const MORE: &str = r#"
spec deep '' "mkdir -p $root/usr/share/deep/dir; echo deep >$root/usr/share/deep/file" '/usr/share/deep'
spec needs 'Requires: /usr/share/deep/file /usr/share/deep/dir' "mkdir -p $root/srv; echo needs >$root/srv/needs" '/srv/needs'
cp $topdir/RPMS/x86_64/deep-*.rpm $topdir/RPMS/x86_64/needs-*.rpm repo/Packages
rpmsign --define '_gpg_name tiny' --define '__gpg /usr/bin/gpg' --addsign repo/Packages/deep* repo/Packages/needs* >/dev/null
createrepo_c -q --general-compress-type=xz --checksum sha512 repo
gpg --batch --quiet --yes -u tiny --armor --detach-sign repo/repodata/repomd.xml
gpgconf --kill all
list() { # the address of all
    printf '# a list\n%s/gone\n\n%s/repo/\n' $1 $1 >mirrors-1
    printf '<?xml version="1.0"?><metalink version="3.0"><files><file name="repomd.xml"><size>1</size><verification><hash type="md5">0</hash><hash type="sha256">%s</hash></verification><resources><url protocol="http" preference="10">%s/repo/repodata/repomd.xml</url><url protocol="http" preference="90">%s/old/repodata/repomd.xml</url><url protocol="rsync" preference="100">rsync://x/repodata/repomd.xml</url></resources></file></files></metalink>' \
        $(sha256sum <repo/repodata/repomd.xml | cut -d' ' -f1) $1 $1 >metalink
}
"#;

/// A module of two streams, in packages of the same names, and a package of no stream that
/// is later than both.
const STREAMS: &str = r#"
tool() { # version, text
    spec tool '' "mkdir -p $root/srv; echo $2 >$root/srv/tool" '/srv/tool'
    sed "s/^Version: 1/Version: $1/" tool.spec >tool-$1.spec
    rpmbuild --quiet --define "_topdir $topdir" --define 'debug_package %{nil}' --target x86_64 -bb tool-$1.spec
    cp $topdir/RPMS/x86_64/tool-$1-1.x86_64.rpm repo/Packages
}
tool 10 ten; tool 20 twenty; tool 30 thirty
rpmsign --define '_gpg_name tiny' --define '__gpg /usr/bin/gpg' --addsign repo/Packages/tool* >/dev/null
for stream in 10 20; do cat <<X
---
document: modulemd
version: 2
data:
  name: tool
  stream: "$stream"
  version: 1
  context: c0ffee
  arch: x86_64
  summary: x
  description: x
  license: {module: [MIT]}
  dependencies:
  - requires: {platform: [tiny]}
  profiles:
    common: {rpms: [tool]}
  artifacts:
    rpms: ["tool-0:$stream-1.x86_64"]
X
done >modules.yaml
printf -- '---\ndocument: modulemd-defaults\nversion: 1\ndata:\n  module: tool\n  stream: "10"\n  profiles: {"20": [common]}\n' >>modules.yaml
createrepo_c -q repo
gzip -k modules.yaml
modifyrepo_c --mdtype modules modules.yaml.gz repo/repodata >/dev/null
gpg --batch --quiet --yes -u tiny --armor --detach-sign repo/repodata/repomd.xml
gpgconf --kill all
"#;

#[test]
fn streams_of_modules_are_chosen_as_dnf_does() {
    let place = Place::new();
    let url = harness::serve(&place.path("work"));
    let made = RPMS.replacen("gpgconf --kill all\n", "", 1);
    place.write("work/make", format!("{made}{STREAMS}"));
    let _ = place.shell("bash make").ok();
    let build = |include: &str| {
        let text = format!(
            "Bootstrap: dnf\nOSVersion: 1\nMirrorURL: {url}/repo\nKeyring: tiny.asc\nInclude: {include}\n"
        );
        place.write("work/a.def", text);
        place.sampan(&["build", "--progress", "quiet", "-t", "tiny", "-f", "a.def", "."])
    };
    let look = |what: &str| place.sampan(&["exec", "tiny", "sh", "-c", what]);
    let _ = build("tool").ok();
    assert_eq!(look("cat /srv/tool").ok(), "ten\n");
    let _ = build("@tool:20").ok();
    let said = look("cat /srv/tool /etc/dnf/modules.d/tool.module").ok();
    assert!(said.starts_with("twenty\n[tool]\n") && said.contains("stream=20\n"), "{said}");
    refuses(build("@tool:30"), &["no stream 30", "10, 20"]);
    refuses(build("@tool:20/all"), &["no profile all", "one of: common"]);
    let _ = place
        .shell("printf 'document: modulemd\\ndata: {' >modules.yaml; rm modules.yaml.gz; gzip modules.yaml; \
                modifyrepo_c --mdtype modules modules.yaml.gz repo/repodata; rm repo/repodata/*.asc")
        .ok();
    refuses(build("tool bash"), &["modules", "is malformed", "document 1"]);
}

#[test]
fn repositories_are_found_through_their_mirrors() {
    let place = Place::new();
    let url = harness::serve(&place.path("work"));
    let made = RPMS.replacen("gpgconf --kill all\n", "", 1);
    place.write("work/make", format!("{made}{MORE}\nlist {url}\n"));
    let _ = place.shell("bash make").ok();
    let text = |mirror: &str, more: &str| {
        format!("Bootstrap: dnf\nOSVersion: 1\nMirrorURL: {mirror}\nKeyring: tiny.asc\n{more}")
    };
    let build = |mirror: &str, more: &str| {
        place.write("work/a.def", text(mirror, more));
        place.sampan(&["build", "--progress", "quiet", "-t", "tiny", "-f", "a.def", "."])
    };
    // A list with a mirror that is gone.
    let list = format!("mirrorlist={url}/mirrors-$releasever");
    let _ = build(&list, "Include: needs\n").ok();
    let look = "cat /srv/needs /usr/share/deep/file /etc/yum.repos.d/bootstrap.repo";
    let out = place.sampan(&["exec", "tiny", "sh", "-c", look]).ok();
    assert!(out.starts_with("needs\ndeep\n"), "{out}");
    assert!(out.contains(&format!("mirrorlist={url}/mirrors-1\n")), "{out}");

    // The better mirror has an index and a package that the metalink does not vouch for.
    let metalink = format!("{url}/metalink");
    let _ = place.shell("cp -a repo old; echo >>old/repodata/repomd.xml").ok();
    let _ = build(&metalink, "Include: needs bash\n").ok();
    // The index of the better one is good, a package is not.
    let change = "rm -r old; cp -a repo old; f=$(echo old/Packages/deep-*); truncate -s -7 $f";
    let _ = place.shell(change).ok();
    let _ = build(&metalink, "Include: needs coreutils\n").ok();
    let _ = place.shell("truncate -s -7 repo/Packages/deep-*").ok();
    refuses(
        build(&metalink, "Include: deep\n"),
        &["none of the 2 mirrors", "deep-1-1", "bytes, not"],
    );

    let change = "cp repo/Packages/extra-* .; \
                  printf X | dd of=$(echo repo/Packages/extra-*) bs=1 seek=50 conv=notrunc 2>/dev/null";
    let _ = place.shell(change).ok();
    let plain = format!("{url}/repo");
    refuses(build(&plain, "Include: extra bash\n"), &["extra-1-1", "its SHA-512 is"]);
    let _ = place.shell("mv extra-* repo/Packages").ok();

    // What nobody needs is not fetched; what is needed is compared.
    let _ =
        place.shell("rm -r old; for f in repo/repodata/*filelists*; do printf X >>$f; done").ok();
    let _ = build(&list, "Include: extra\n").ok();
    refuses(build(&list, "Include: needs rpm\n"), &["filelists", "more than"]);
    let _ = place.shell("rm repo/repodata/*filelists*").ok();
    let err = build(&format!("{url}/repo"), "Include: needs rpm\n").fails(3);
    assert!(err.contains("filelists") && err.contains("404"), "{err}");

    let _ = place.shell("sed -i 's/sha256\">./sha256\">-/' metalink").ok();
    refuses(build(&metalink, ""), &["repomd.xml", "not in the metalink"]);
    let _ = place.shell("sed -i 's/sha256/md4/' metalink").ok();
    refuses(build(&metalink, ""), &["metalink is malformed", "no SHA-256"]);
    let _ = place.shell("echo gone >metalink; echo '# none' >mirrors-1").ok();
    refuses(build(&metalink, ""), &["metalink is malformed"]);
    refuses(build(&list, ""), &["mirrors-1 is malformed", "names no mirror"]);
}

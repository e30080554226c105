//! RPM packages under emulated root: rpmbuild makes them, dnf and zypper install
//! them.

use harness::Place;

const SYSTEM: &str = "Name: system
Version: 1
Release: 1
Summary: what Debian has
License: none
BuildArch: noarch
AutoReqProv: no
Provides: /bin/sh
%description
x
%files
";

const PROBE: &str = "Name: probe
Version: 1.0
Release: 1
Summary: owners, devices, capabilities, scriptlets
License: none
BuildArch: noarch
AutoReqProv: no
Requires: system /bin/sh
%description
x
%install
mkdir -p %{buildroot}/srv/probe %{buildroot}/var/spool/probe %{buildroot}/usr/bin
echo a >%{buildroot}/srv/probe/a
echo b >%{buildroot}/srv/probe/b
ln %{buildroot}/srv/probe/a %{buildroot}/srv/probe/hard
ln -s a %{buildroot}/srv/probe/link
echo c >%{buildroot}/usr/bin/probe-cap
echo d >%{buildroot}/usr/bin/probe-suid
%pre
groupadd -r -g 612 probe
useradd -r -u 611 -g probe -d /srv/probe probe
%post
echo \"post $1 $(id -u) $(stat -c %%U:%%G /srv/probe/a)\" >/srv/probe/post
chown probe:probe /srv/probe/post
%preun
echo \"preun $1\" >>/preun
%files
%attr(640,probe,probe) /srv/probe/a
%attr(640,probe,probe) /srv/probe/hard
%attr(600,daemon,bin) /srv/probe/b
%attr(-,probe,probe) /srv/probe/link
%attr(2770,root,mail) %dir /var/spool/probe
%attr(4755,root,probe) /usr/bin/probe-suid
%caps(cap_net_raw=ep) %attr(755,root,root) /usr/bin/probe-cap
%dev(c,1,3) %attr(666,root,daemon) /srv/probe/null
%ghost %attr(644,probe,probe) /srv/probe/post
";

#[test]
fn dnf_installs_packages_with_owners_devices_and_capabilities() {
    installs(
        "dnf",
        "mkdir -p /etc/yum.repos.d && printf '[l]\\nname=l\\nbaseurl=file:///repo\\ngpgcheck=0\\n' \
         >/etc/yum.repos.d/l.repo && dnf -q -y --releasever 1 install probe",
        "dnf -q -y --releasever 1 remove probe",
    );
}

#[test]
fn zypper_installs_packages_with_owners_devices_and_capabilities() {
    installs(
        "zypper",
        "zypper -qn addrepo --no-gpgcheck /repo l && zypper -n --no-gpg-checks install probe",
        "zypper -n remove probe",
    );
}

/// Builds an image in which a tool of Debian's installs and removes the packages.
fn installs(tool: &str, install: &str, remove: &str) {
    let place = Place::new();
    place.write("work/ctx/system.spec", SYSTEM);
    place.write("work/ctx/probe.spec", PROBE);
    let text = format!(
        "FROM {}/base:latest
RUN apt-get update -q >/dev/null && apt-get install -qy --no-install-recommends \\
    {tool} rpm createrepo-c libcap2-bin >/dev/null 2>&1 && \\
    mkdir -p /etc/rpm && echo '%_dbpath /var/lib/rpm' >/etc/rpm/macros
COPY *.spec /specs/
RUN rpmbuild --quiet -bb /specs/*.spec && mkdir /repo && \\
    mv /root/rpmbuild/RPMS/noarch/*.rpm /repo && createrepo_c -q /repo
RUN {install}
RUN rpm -V probe && getcap /usr/bin/probe-cap && cat /srv/probe/post && \\
    stat -c '%n %U:%G %a %t,%T %h' /srv/probe/* /var/spool/probe /usr/bin/probe*
RUN {remove} && cat /preun && ls -A /srv /var/spool && rpm -qa
",
        harness::registry()
    );
    place.write("work/ctx/Dockerfile", text);
    let ran = place.sampan(&["build", "ctx"]);
    let said = ran.err.clone();
    let _ = ran.ok();
    for line in [
        "/usr/bin/probe-cap cap_net_raw=ep",
        "post 1 0 probe:probe",
        "/srv/probe/a probe:probe 640 0,0 2",
        "/srv/probe/b daemon:bin 600 0,0 1",
        "/srv/probe/hard probe:probe 640 0,0 2",
        "/srv/probe/link probe:probe 777 0,0 1",
        "/srv/probe/null root:daemon 666 1,3 1",
        "/var/spool/probe root:mail 2770 0,0 2",
        "/usr/bin/probe-suid root:probe 4755 0,0 1",
        "preun 0",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

//! Dockerfiles of many forms, and what their images print.

use harness::Place;

use crate::build;

/// A Dockerfile, behind `ARG BASE` and `FROM $BASE` unless it has its own
/// FROM, and what its image prints.
const RECIPES: &[(&str, &str)] = &[
    // Commands.
    ("RUN echo a >/f\nCMD cat /f", "a\n"),
    ("RUN [\"/bin/busybox\", \"mkdir\", \"-p\", \"/x/y z\"]\nCMD ls /x", "y z\n"),
    ("RUN echo one && \\\n    # a comment\n\n    echo two >/f\nCMD [\"cat\", \"/f\"]", "two\n"),
    ("SHELL [\"/bin/busybox\", \"sh\", \"-ec\"]\nRUN false || echo ok >/f\nCMD cat /f", "ok\n"),
    ("RUN <<EOF\necho one >/f\necho $((1+1)) >>/f\nEOF\nCMD cat /f", "one\n2\n"),
    ("RUN cat <<A >/f && cat <<B >>/f\nfirst\nA\nsecond\nB\nCMD cat /f", "first\nsecond\n"),
    ("RUN <<-\"EOF\" cat >/f\n\ttabbed $HOME\n\tEOF\nCMD cat /f", "tabbed $HOME\n"),
    ("# escape=`\nARG BASE\nFROM $BASE\nRUN echo a `\n  b >/f\nCMD cat /f", "a b\n"),
    ("RUN rm /etc/marker\nCMD test -e /etc/marker || echo gone", "gone\n"),
    ("RUN rm -r /opt && mkdir /opt && echo x >/opt/n\nCMD ls /opt", "n\n"),
    ("RUN --network=none ip link | busybox grep -c UP >/f; true\nCMD cat /f", "1\n"),
    (
        "RUN --mount=type=tmpfs,target=/t touch /t/x && ls /t >/f\nCMD cat /f; ls /t 2>&1 | wc -l",
        "x\n1\n",
    ),
    ("RUN --mount=type=bind,source=dir,target=/m cat /m/sub/c.txt >/f\nCMD cat /f", "c\n"),
    (
        "RUN --mount=type=cache,target=/c echo kept >/c/k\nRUN --mount=type=cache,target=/c cat /c/k >/f\nCMD cat /f; test -e /c/k || echo no",
        "kept\nno\n",
    ),
    (
        "RUN --mount=type=cache,target=/c2,sharing=locked,uid=12,gid=13,mode=0750 stat -c '%u:%g %a' /c2 >/f\nCMD cat /f",
        "12:13 750\n",
    ),
    (
        "RUN --mount=type=secret,id=tok,uid=12,mode=0440,target=/s stat -c '%u:%g %a' /s >/f; cat /s >>/f\nCMD cat /f",
        "12:0 440\nthe secret\n",
    ),
    (
        "RUN --mount=type=secret,id=tok cat /run/secrets/tok >/f; true\nCMD cat /f; test -e /run/secrets/tok || echo no",
        "the secret\nno\n",
    ),
    (
        "RUN --mount=type=secret,id=none test -e /run/secrets/none || echo none >/f\nCMD cat /f",
        "none\n",
    ),
    // Variables.
    (
        "ENV A=1 B=\"two words\" C=th\\ ree\nENV D=$A-${B:-x}-${E:-none}\nCMD echo \"$A|$B|$C|$D\"",
        "1|two words|th ree|1-two words-none\n",
    ),
    ("ENV OLD form of it\nCMD echo \"$OLD\"", "form of it\n"),
    ("ENV X=1\nENV X=2 Y=$X\nCMD echo $X $Y", "2 1\n"),
    ("ARG V=default\nRUN echo $V >/f\nCMD cat /f; echo \"[$V]\"", "default\n[]\n"),
    ("ARG GIVEN=default\nRUN echo $GIVEN >/f\nCMD cat /f", "given\n"),
    ("ARG TARGETARCH TARGETOS\nRUN echo $TARGETOS/$TARGETARCH >/f\nCMD cat /f", "linux/amd64\n"),
    (
        "ARG V=a.tar.gz\nENV S=${V%.gz} P=${V#a.} R=${V/a/b}\nCMD echo $S $P $R",
        "a.tar tar.gz b.tar.gz\n",
    ),
    ("ARG BASE\nARG VER=9\nFROM $BASE\nARG VER\nRUN echo $VER >/f\nCMD cat /f", "9\n"),
    ("ARG BASE\nARG VER=9\nFROM $BASE\nRUN echo \"[$VER]\" >/f\nCMD cat /f", "[]\n"),
    // Files.
    ("COPY a.txt /\nCMD cat /a.txt", "a\n"),
    ("COPY a.txt /new/dir/name\nCMD cat /new/dir/name", "a\n"),
    ("COPY a.txt link /d/\nCMD cat /d/a.txt /d/link", "a\na\n"),
    ("COPY [\"sp ace.txt\", \"/sp/\"]\nCMD cat \"/sp/sp ace.txt\"", "space\n"),
    (
        "COPY dir /d\nCMD cd /d && find . | busybox sort | busybox tr '\\n' ' '; readlink inner",
        ". ./b.o ./b.txt ./empty ./hard ./inner ./sub ./sub/c.txt b.txt\n",
    ),
    ("COPY dir /d\nRUN stat -c %h /d/hard >/f\nCMD cat /f", "2\n"),
    (
        "COPY --exclude=*.o --exclude=sub dir /d\nCMD ls /d | busybox tr '\\n' ' '",
        "b.txt empty hard inner ",
    ),
    ("COPY *.txt /t/\nCMD ls /t", "a.txt\nsp ace.txt\n"),
    ("COPY --parents dir/sub/c.txt /p/\nCMD cat /p/dir/sub/c.txt", "c\n"),
    ("COPY --parents ./dir/./sub/*.txt /p/\nCMD cat /p/sub/c.txt", "c\n"),
    (
        "COPY . /all\nCMD ls /all/ignored; test -e /all/dir/sub/k.secret || echo left out",
        "keep.txt\nleft out\n",
    ),
    ("COPY exec.sh /bin/e\nCMD [\"/bin/e\"]", "executed\n"),
    (
        "COPY --chmod=4711 --chown=app a.txt /f\nRUN stat -c '%a %u:%g' /f >/o\nCMD cat /o",
        "4711 999:998\n",
    ),
    ("COPY --chown=5:6 dir /d\nRUN stat -c '%u:%g' /d /d/sub/c.txt >/o\nCMD cat /o", "5:6\n5:6\n"),
    (
        "RUN mkdir -m 700 /d && busybox chown 3:4 /d\nCOPY a.txt /d/\nRUN stat -c '%a %u:%g' /d /d/a.txt >/o\nCMD cat /o",
        "700 3:4\n640 0:0\n",
    ),
    (
        "ARG BASE\nFROM $BASE AS b\nONBUILD RUN <<EOF\necho $((1<<4)) >/f\nEOF\nFROM b\nCMD cat /f",
        "16\n",
    ),
    ("COPY <<EOF /f\nhello $BASE_NOT ${X:-x}\nEOF\nCMD cat /f", "hello  x\n"),
    ("COPY <<'A' <<\"B\" /d/\none $X\nA\ntwo\nB\nCMD cat /d/A /d/B", "one $X\ntwo\n"),
    (
        "WORKDIR /w\nCOPY a.txt .\nCOPY a.txt sub/\nCMD pwd; ls /w /w/sub | busybox tr '\\n' ' '",
        "/w\n/w: a.txt sub  /w/sub: a.txt ",
    ),
    (
        "RUN busybox ln -s opt /alias\nCOPY a.txt /alias/app/\nCMD cat /opt/app/a.txt; readlink /alias",
        "a\nopt\n",
    ),
    (
        "ADD archive.tar.gz /x/\nRUN stat -c %u:%g /x/a.txt >/o\nCMD cat /x/dir/sub/c.txt /o",
        "c\n7:8\n",
    ),
    ("ADD a.txt /x/\nCMD cat /x/a.txt", "a\n"),
    // Configuration.
    ("WORKDIR /a\nWORKDIR b\nWORKDIR ../c\nCMD pwd", "/a/c\n"),
    (
        "RUN mkdir -m 777 /o\nUSER app\nRUN id -u >/o/o && id -g >>/o/o && echo $HOME >>/o/o && touch /o/mine && stat -c %u:%g /o/mine >>/o/o\nUSER root\nCMD cat /o/o",
        "999\n998\n/opt/app\n999:998\n",
    ),
    (
        "RUN mkdir -m 777 /o\nUSER 12:13\nRUN mkdir /o/d && stat -c %u:%g /o/d >/o/o\nUSER 0\nCMD cat /o/o",
        "12:13\n",
    ),
    ("ENTRYPOINT [\"echo\", \"entry\"]\nCMD [\"default\"]", "entry default\n"),
    ("CMD echo base\nENTRYPOINT echo shell", "shell\n"),
    (
        "ENV PATH /x:${PATH}\nCMD echo $PATH",
        "/x:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
    ),
    ("RUN echo $((1<<4)) >/f\nCMD cat /f", "16\n"),
    ("ARG O=12:0\nCOPY --chown=${O} a.txt /f\nRUN stat -c %u:%g /f >/o\nCMD cat /o", "12:0\n"),
    ("COPY --chown=999 a.txt /f\nRUN stat -c %u:%g /f >/o\nCMD cat /o", "999:999\n"),
    ("ONBUILD RUN echo triggered >/f\nCMD test -e /f || echo not yet", "not yet\n"),
    (
        "LABEL a=\"b c\" d.e=f\nEXPOSE 80 443/udp\nVOLUME /data\nSTOPSIGNAL SIGINT\nMAINTAINER me\nHEALTHCHECK --interval=5s CMD true\nCMD echo labelled",
        "labelled\n",
    ),
    // Stages.
    (
        "ARG BASE\nFROM $BASE AS one\nRUN echo 1 >/f\nFROM $BASE\nCOPY --from=one /f /g\nCMD cat /g",
        "1\n",
    ),
    (
        "ARG BASE\nFROM $BASE\nRUN echo 0 >/f\nFROM $BASE\nCOPY --from=0 /f /bin /x/\nCMD cat /x/f; readlink /x/ls",
        "0\nbusybox\n",
    ),
    (
        "ARG BASE\nFROM $BASE AS base\nRUN echo b >/b\nFROM base AS second\nRUN echo s >/s\nFROM second\nCMD cat /b /s",
        "b\ns\n",
    ),
    (
        "ARG BASE\nFROM nosuchimage.invalid/x AS unneeded\nRUN false\nFROM $BASE\nCMD echo skipped",
        "skipped\n",
    ),
    (
        "ARG BASE\nFROM $BASE AS tools\nRUN busybox chown 5:6 /etc/marker\nFROM scratch\nCOPY --from=tools /bin /bin\nCOPY --from=tools /etc/marker /m\nRUN [\"/bin/stat\", \"-c\", \"%u:%g\", \"/m\"]\nCMD [\"/bin/cat\", \"/m\"]",
        "from the image\n",
    ),
    (
        "ARG BASE\nFROM $BASE\nARG BASE\nCOPY --from=${BASE} /etc/marker /copied\nCMD cat /copied",
        "from the image\n",
    ),
    // Forms of the field: Python, Go, MPI and CUDA style, as far as busybox goes.
    (
        "ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1\nRUN mkdir -p /opt/venv/bin && printf '#!/bin/sh\\necho venv\\n' >/opt/venv/bin/app && busybox chmod +x /opt/venv/bin/app\nCMD [\"app\"]",
        "venv\n",
    ),
    (
        "ARG BASE\nFROM $BASE AS build\nWORKDIR /src\nCOPY exec.sh main.sh\nRUN --mount=type=cache,target=/root/.cache mkdir -p /out && cat main.sh >/out/app && busybox chmod 755 /out/app\nFROM $BASE\nCOPY --from=build /out/app /usr/local/bin/app\nENTRYPOINT [\"/usr/local/bin/app\"]",
        "executed\n",
    ),
    (
        "ARG MPI_VERSION=4.1.2\nENV MPI_DIR=/opt/mpi-${MPI_VERSION%.*}\nRUN mkdir -p $MPI_DIR/lib && echo $MPI_DIR/lib >>/etc/ld.so.conf\nENV LD_LIBRARY_PATH=$MPI_DIR/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\nCMD echo $LD_LIBRARY_PATH; cat /etc/ld.so.conf",
        "/opt/mpi-4.1/lib\n/opt/mpi-4.1/lib\n",
    ),
    (
        "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nLABEL com.nvidia.volumes.needed=\"nvidia_driver\"\nCMD echo $NVIDIA_DRIVER_CAPABILITIES",
        "compute,utility\n",
    ),
    // Spack: an install tree by hashes, a view of links into it, modules, an environment that
    // the entrypoint reads, and only those in the last stage.
    (
        "ARG BASE\nFROM $BASE AS builder\n\
         ENV SPACK_ROOT=/opt/spack\n\
         RUN <<EOF\nset -e\np=/opt/software/linux-x86_64/gcc-12.2.0/hello-2.12-abcdefg\n\
         mkdir -p $p/bin $p/.spack /opt/views/view/bin /opt/modules/hello /opt/spack/opt\n\
         printf '#!/bin/sh\\necho hello from $HELLO_ROOT\\n' >$p/bin/hello\nbusybox chmod 755 $p/bin/hello\n\
         ln -s $p /opt/spack/opt/hello\nln -s /opt/spack/opt/hello/bin/hello /opt/views/view/bin/hello\n\
         echo \"setenv HELLO_ROOT $p\" >/opt/modules/hello/2.12\n\
         printf 'export HELLO_ROOT=/opt/views/view\\nexport PATH=/opt/views/view/bin:$PATH\\n' >/etc/spack.sh\nEOF\n\
         FROM $BASE\n\
         COPY --from=builder /opt/software /opt/software\n\
         COPY --from=builder /opt/spack/opt /opt/spack/opt\n\
         COPY --from=builder /opt/views /opt/views\n\
         COPY --from=builder /opt/modules /opt/modules\n\
         COPY --from=builder /etc/spack.sh /etc/spack.sh\n\
         RUN { echo '#!/bin/sh'; echo '. /etc/spack.sh; exec \"$@\"'; } >/entry && busybox chmod 755 /entry\n\
         ENTRYPOINT [\"/entry\"]\nCMD [\"hello\"]",
        "hello from /opt/views/view\n",
    ),
    // CUDA: a development image, a runtime image with the libraries alone, ld.so.conf.d,
    // stubs for linking, and an application that is copied between them.
    (
        "ARG BASE\nARG CUDA=12.4\nFROM $BASE AS common\nARG CUDA\n\
         ENV CUDA_VERSION=$CUDA NVIDIA_REQUIRE_CUDA=\"cuda>=${CUDA}\" LD_LIBRARY_PATH=/usr/local/cuda/lib64:/usr/local/nvidia/lib64\n\
         RUN mkdir -p /usr/local/cuda-$CUDA/lib64 /etc/ld.so.conf.d && \
             ln -s cuda-$CUDA /usr/local/cuda && echo /usr/local/cuda/lib64 >/etc/ld.so.conf.d/cuda.conf && \
             echo cudart >/usr/local/cuda/lib64/libcudart.so.${CUDA%.*} && \
             ln -s libcudart.so.${CUDA%.*} /usr/local/cuda/lib64/libcudart.so\n\
         FROM common AS devel\n\
         RUN mkdir -p /usr/local/cuda/lib64/stubs /usr/local/cuda/bin && \
             echo stub >/usr/local/cuda/lib64/stubs/libcuda.so\n\
         ENV LIBRARY_PATH=/usr/local/cuda/lib64/stubs\n\
         FROM devel AS build\nWORKDIR /src\nCOPY exec.sh .\n\
         RUN cat $LIBRARY_PATH/libcuda.so exec.sh | busybox sed 1d >/app && busybox chmod 755 /app\n\
         FROM common AS runtime\nCOPY --from=build /app /opt/app/run\n\
         CMD /opt/app/run; cat $(cat /etc/ld.so.conf.d/cuda.conf)/libcudart.so; \
             test -e /usr/local/cuda/lib64/stubs || echo $NVIDIA_REQUIRE_CUDA",
        "executed\ncudart\ncuda>=12.4\n",
    ),
];

#[test]
fn every_form_builds_and_runs() {
    let place = Place::new();
    let secret = place.write("work/token", "the secret\n");
    place.give(&place.path("work"));
    let secret = format!("id=tok,src={}", secret.display());
    let flags = ["--build-arg", "GIVEN=given", "--secret", &secret];
    assert!(RECIPES.len() >= 60);
    for (recipe, expected) in RECIPES {
        let own = recipe.contains("FROM ");
        let text =
            if own { (*recipe).to_owned() } else { format!("ARG BASE\nFROM $BASE\n{recipe}") };
        let ran = build(&place, &text, &flags);
        assert_eq!(ran.code, 0, "{text}\n{}", ran.err);
        let ran = place.sampan(&["run", "made"]);
        assert_eq!((ran.code, ran.out.as_str()), (0, *expected), "{text}\n{}", ran.err);
    }
}

#[test]
fn the_configuration_is_what_the_file_says() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE\nLABEL a=\"b c\" d.e=f\nEXPOSE 80 443/udp\nVOLUME /data /more\n\
                STOPSIGNAL SIGINT\nUSER app\nWORKDIR /w\nENV X=y\nMAINTAINER me\n\
                HEALTHCHECK --interval=1m30s --retries=3 CMD test -e /ok\nONBUILD RUN echo hi\n\
                SHELL [\"/bin/sh\", \"-ec\"]\nCMD go\n";
    let _ = build(&place, text, &["-o", "oci:lay:x", "--timestamp", "86400"]).ok();
    let image = format!("oci:{}/work/lay:x", place.path("").display());
    let mut skopeo = std::process::Command::new("skopeo");
    let raw = harness::run(skopeo.args(["inspect", "--config", "--raw", &image])).ok();
    let all: serde_json::Value = serde_json::from_str(&raw).unwrap();
    let config = &all["config"];
    assert_eq!(config["Labels"], serde_json::json!({"a": "b c", "d.e": "f"}));
    assert_eq!(config["ExposedPorts"], serde_json::json!({"80/tcp": {}, "443/udp": {}}));
    assert_eq!(config["Volumes"].as_object().unwrap().len(), 2);
    assert_eq!((&config["User"], &config["WorkingDir"]), (&"app".into(), &"/w".into()));
    assert_eq!(config["Healthcheck"]["Test"], serde_json::json!(["CMD-SHELL", "test -e /ok"]));
    assert_eq!(config["Healthcheck"]["Interval"], 90_000_000_000_u64);
    assert_eq!(config["OnBuild"], serde_json::json!(["RUN echo hi"]));
    assert_eq!(config["Cmd"], serde_json::json!(["/bin/sh", "-ec", "go"]));
    assert_eq!((&all["author"], &all["created"]), (&"me".into(), &"1970-01-02T00:00:00Z".into()));
    let layers = all["rootfs"]["diff_ids"].as_array().unwrap().len();
    let history = all["history"].as_array().unwrap();
    let full = history.iter().filter(|line| line["empty_layer"] != true).count();
    assert!(full <= layers && history.len() >= 12, "{layers} layers, {history:?}");
    // What it asks of who builds from it is done there.
    let _ = build(&place, "FROM made\nUSER root\nRUN touch /ok\nCMD echo $X", &[]).ok();
    assert_eq!(place.sampan(&["run", "made"]).ok(), "y\n");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let place = Place::new();
    for (text, code, words) in [
        ("FROM $BASE\nRNU x\n", 1, "line 3, column 1|did you mean RUN?"),
        ("FROM $BASE\nRUN exit 7\n", 7, "line 3, column 1: RUN exit 7|exit code 7"),
        ("FROM $BASE\nRUN nosuchcommand\n", 127, "nosuchcommand"),
        ("FROM $BASE\nCOPY nosuch /\n", 1, "nosuch|.dockerignore"),
        ("FROM $BASE\nCOPY ../../etc/passwd /\n", 1, "passwd"),
        ("FROM $BASE\nCOPY ignored/x.txt /\n", 1, "ignored/x.txt"),
        ("FROM $BASE\nCOPY --from=nosuch.invalid/y /a /b\n", 1, "nosuch.invalid"),
        ("FROM $BASE\nCOPY a.txt /etc\nCOPY dir /etc/passwd\n", 1, "/etc/passwd"),
        ("FROM $BASE\nUSER nobodyhere\nRUN id\n", 1, "nobodyhere"),
        ("FROM $BASE\nENV A=\"${B:?must be set}\"\n", 1, "must be set"),
        ("FROM $BASE\nADD https://example.invalid/x /x\n", 1, "example.invalid"),
        ("FROM $BASE\nADD https://host.invalid/repository.git /x\n", 1, "git|host.invalid"),
        ("FROM $BASE\nADD --checksum=sha256:00 a.txt /x\n", 1, "--checksum"),
        ("FROM $BASE\nADD ftp://host.invalid/x /x\n", 1, "not supported"),
        ("FROM $BASE\nRUN --mount=type=secret,id=s,required true\n", 1, "--secret id=s"),
        ("FROM $BASE AS a\nFROM $BASE AS a\n", 1, "a stage"),
    ] {
        let ran = build(&place, &format!("ARG BASE\n{text}"), &[]);
        assert!(ran.code == code || code == 1 && ran.code != 0, "{text}: {} {}", ran.code, ran.err);
        for word in words.split('|') {
            assert!(ran.err.contains(word), "{text}: {word}: {}", ran.err);
        }
        assert!(ran.err.contains("error: ") && !ran.err.contains("panicked"), "{}", ran.err);
    }
    let ran = build(&place, "ARG BASE\nFROM $BASE\n", &["--target", "nosuch"]);
    assert!(ran.fails(1).contains("nosuch"));
}

/// The registry is a web server like any other.
#[test]
fn addresses_are_fetched_and_checked() {
    let place = Place::new();
    let name = format!("{}/busybox", harness::registry());
    let mut skopeo = std::process::Command::new("skopeo");
    let flags = ["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}:latest")];
    let raw = harness::run(skopeo.args(flags)).ok();
    let manifest: serde_json::Value = serde_json::from_str(&raw).unwrap();
    let digest = manifest["config"]["digest"].as_str().unwrap();
    let url = format!("http://{}/v2/busybox/blobs/{digest}", harness::registry());
    let text = format!(
        "ARG BASE\nFROM $BASE\nADD --checksum={digest} {url} /file\nADD {url} /dir/\n\
         RUN stat -c %a /file >/o && sha256sum /file >>/o\nCMD cat /o; ls /dir\n"
    );
    let ran = build(&place, &text, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let hex = digest.trim_start_matches("sha256:");
    let out = place.sampan(&["run", "made"]).ok();
    assert_eq!(out, format!("600\n{hex}  /file\n{digest}\n"));
    let wrong = text.replacen(digest, &format!("sha256:{}", "0".repeat(64)), 1);
    let ran = build(&place, &wrong, &[]);
    assert!(ran.fails(1).contains("checksum"));
}

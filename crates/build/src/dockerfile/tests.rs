use super::*;

fn kinds(text: &str) -> Vec<Kind> {
    let file = parse(text).unwrap();
    file.stages.into_iter().flat_map(|stage| stage.instructions).map(|i| i.kind).collect()
}

fn wrong(text: &str) -> SyntaxError {
    parse(text).unwrap_err()
}

#[test]
fn stages_and_arguments_before_them() {
    let file = parse(
        "# syntax=docker/dockerfile:1\n# escape=`\nARG V=1\nFROM --platform=$P a:${V} AS Base\n\
         RUN x `\n # a comment\n\n  y\r\nfrom base\n",
    )
    .unwrap();
    assert_eq!((file.escape, file.args[0].default.as_deref()), ('`', Some("1")));
    let [first, second] = &file.stages[..] else { panic!() };
    assert_eq!((first.from.as_str(), first.name.as_deref()), ("a:${V}", Some("base")));
    assert_eq!((first.platform.as_deref(), second.from.as_str()), (Some("$P"), "base"));
    assert_eq!(first.instructions[0].text, "RUN x   y");
    assert_eq!(first.instructions[0].place, Place { line: 5, column: 1 });
}

#[test]
fn commands_for_a_shell_and_as_they_are() {
    let run = |text: &str| match kinds(&format!("FROM x\n{text}")).remove(0) {
        Kind::Run { command, .. } | Kind::Cmd(command) => command,
        other => panic!("{other:?}"),
    };
    assert_eq!(run("RUN [\"a\", \"b c\"]"), Words::Exec(vec!["a".into(), "b c".into()]));
    assert_eq!(run("RUN [ -f x ] && y"), Words::Shell("[ -f x ] && y".into()));
    assert_eq!(run("cmd echo"), Words::Shell("echo".into()));
}

#[test]
fn documents() {
    let text = "FROM x\nRUN <<EOF\na $B\n\tEOF\nEOF\nCOPY <<-\"A\" <<B /dest/\n\tone\n\tA\ntwo\nB\n\
                RUN cat <<X | tee y <<<word\nz\nX\n";
    let kinds = kinds(text);
    let Kind::Run { heredocs, command, .. } = &kinds[0] else { panic!() };
    assert_eq!(heredocs[0].content, "a $B\n\tEOF\n");
    assert_eq!(*command, Words::Shell("<<EOF".into()));
    let Kind::Copy(copy) = &kinds[1] else { panic!() };
    let [Source::Heredoc(a), Source::Heredoc(b)] = &copy.sources[..] else { panic!() };
    assert_eq!(
        (a.content.as_str(), a.expand, b.content.as_str(), b.expand),
        ("one\n", false, "two\n", true)
    );
    let Kind::Run { heredocs, .. } = &kinds[2] else { panic!() };
    assert_eq!((heredocs.len(), heredocs[0].content.as_str()), (1, "z\n"));
}

#[test]
fn flags_of_copy_and_run() {
    let kinds = kinds(
        "FROM x\nCOPY --from=b --chown=1:2 --chmod=755 --parents --exclude=*.o --exclude=t a \"b c\" /d/\n\
         RUN --mount=type=cache,target=/c,ro --mount=type=secret,id=s --network=none make\n",
    );
    let Kind::Copy(copy) = &kinds[0] else { panic!() };
    assert_eq!((copy.from.as_deref(), copy.chown.as_deref()), (Some("b"), Some("1:2")));
    assert_eq!((copy.exclude.len(), copy.parents, copy.sources.len()), (2, true, 2));
    let Kind::Run { mounts, network, .. } = &kinds[1] else { panic!() };
    assert_eq!((mounts[0].kind.as_str(), network.as_deref()), ("cache", Some("none")));
    assert_eq!(mounts[0].options[1], ("ro".to_owned(), None));
}

#[test]
fn pairs_in_both_forms() {
    let kinds =
        kinds("FROM x\nENV A=1 B=\"x y\" C=z\\ w\nENV OLD the rest = it\nLABEL a.b=\"c\"\n");
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(kinds[0], Kind::Env(vec![pair("A", "1"), pair("B", "\"x y\""), pair("C", "z\\ w")]));
    assert_eq!(kinds[1], Kind::Env(vec![pair("OLD", "the rest = it")]));
    assert_eq!(kinds[2], Kind::Label(vec![pair("a.b", "\"c\"")]));
}

#[test]
fn what_looks_like_a_document_or_a_continuation() {
    let text = "FROM x\nRUN echo $((1<<4)) 3<<A <<-B; cat x<<C\n3\nA\n\tb\nB\nRUN a\\\\\nRUN b\n\
                ONBUILD RUN <<E\nin it\nE\n";
    let kinds = kinds(text);
    let [Kind::Run { heredocs, .. }, Kind::Run { command, .. }, _, Kind::OnBuild(all)] = &kinds[..]
    else {
        panic!("{kinds:?}")
    };
    let documents: Vec<&str> = heredocs.iter().map(|document| &*document.content).collect();
    assert_eq!(documents, ["3\n", "b\n"]);
    assert_eq!(*command, Words::Shell("a\\\\".to_owned()));
    assert_eq!(all, "RUN <<E\nin it\nE");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, line, word) in [
        ("", 1, "no FROM"),
        ("RUN x\nFROM y\n", 1, "before the first FROM"),
        ("FROM x\n\n RNU y\n", 3, "RNU"),
        ("FROM x y z\n", 1, "AS NAME"),
        ("FROM x AS 1a\n", 1, "1a"),
        ("FROM x AS a\nFROM y AS A\n", 2, "a stage"),
        ("FROM x\nCOPY a\n", 2, "source and a destination"),
        ("FROM x\nCOPY --frm=a b c\n", 2, "--frm"),
        ("FROM x\nRUN <<EOF\nx\n", 2, "EOF"),
        ("FROM x\nRUN --mount=type=foo x\n", 2, "foo"),
        ("FROM x\nRUN --mount=type=cache,target=/c,bogus=1 x\n", 2, "bogus"),
        ("FROM x\nRUN --mount=type=cache,target=/c,sharing=own x\n", 2, "sharing=own"),
        ("FROM x\nSTOPSIGNAL SIGNOPE\n", 2, "a signal cannot be \"SIGNOPE\""),
        ("FROM x\nRUN --mount=type=ssh,size=1 x\n", 2, "type=ssh,size"),
        ("#escape=`\n# syntax=example.org/other/frontend:1\nFROM x\n", 2, "other/frontend"),
        ("FROM x\nRUN --security=insecure x\n", 2, "not supported"),
        ("FROM x\nSHELL bash\n", 2, "JSON"),
        ("FROM x\nHEALTHCHECK --interval=soon CMD x\n", 2, "soon"),
        ("FROM x\nONBUILD FROM y\n", 2, "FROM"),
        ("FROM x\nENV A\n", 2, "NAME=VALUE"),
        ("FROM x\nWORKDIR\n", 2, "argument"),
        ("FROM --foo=1 x\n", 1, "--foo"),
    ] {
        let error = wrong(text);
        assert_eq!(error.place.line, line, "{text:?}: {error}");
        assert!(error.to_string().contains(word), "{text:?}: {error}");
    }
    assert_eq!(wrong("FROM x\n\n RNU y\n").place.column, 2);
}

#[test]
fn any_mixture_of_tokens_is_read_or_refused() {
    let tokens = [
        "FROM ",
        "RUN ",
        "COPY ",
        "ENV ",
        "--mount=",
        "--from=a ",
        "<<EOF",
        "EOF",
        "\n",
        "\\\n",
        "\"",
        "'",
        "$",
        "${",
        "}",
        ":-",
        "[\"",
        "\"]",
        ",",
        "=",
        " ",
        "#",
        "é",
        "\t",
        "ONBUILD ",
        "HEALTHCHECK ",
        "AS ",
        "x",
        "/",
        "%",
        "`",
    ];
    let mut state = 7_u64;
    for _ in 0..20_000 {
        let mut text = "FROM x\n".to_owned();
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.push_str(tokens[(state >> 33) as usize % tokens.len()]);
        }
        let _ = parse(&text);
        let _ = expand::expand_words(&text, '\\', &|_| Some("v".to_owned()));
        let _ = expand::expand_heredoc(&text, &|_| None);
    }
}

#[test]
fn times() {
    use super::instruction::duration;
    assert_eq!(duration("1m30s"), Some(90_000_000_000));
    assert_eq!(duration("1.5s"), Some(1_500_000_000));
    assert_eq!(duration("10"), None);
    assert_eq!(duration(""), None);
}

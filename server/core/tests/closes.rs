//! The table of close codes in PROTOCOL.md, section 10, and the core's list are one.

use fulmar_core::close::{Advice, CloseCode};

/// The rows of the table: code, name, and what the client does.
fn table() -> Vec<(u16, String, String)> {
    let protocol = include_str!("../../PROTOCOL.md");
    let section = protocol.split("## 10. Close codes").nth(1).expect("a section of close codes");
    let rows = section.lines().filter(|line| line.starts_with("| 4"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let cell = |n: usize| (*cells.get(n).unwrap_or_else(|| panic!("{row}"))).to_owned();
        (cell(1).parse().expect("a code"), cell(2), cell(4))
    })
    .collect()
}

#[test]
fn every_code_is_in_the_protocol_and_none_besides() {
    let listed: Vec<_> = table().into_iter().map(|(code, name, _)| (code, name)).collect();
    let known: Vec<_> = CloseCode::ALL.iter().map(|it| (it.code(), it.reason().to_owned())).collect();
    assert_eq!(listed, known);
}

#[test]
fn what_the_client_does_is_what_the_range_advises() {
    for (code, name, does) in table() {
        let it = CloseCode::ALL.iter().find(|it| it.code() == code).expect("a code");
        let begins = match it.advice() {
            Advice::Resume => "come back and resume",
            Advice::Afresh => "come back afresh",
            Advice::StayAway => "do not come back",
        };
        assert!(does.starts_with(begins), "{code} {name}: {does}");
    }
}

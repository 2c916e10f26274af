//! Sessions over time.

use super::*;

const ID: SessionId = SessionId::from_entropy([7; 16]);
const GRACE: Duration = Duration::from_secs(30);

/// Tells the secrets of these tests from each other, each of which is one byte again and again.
fn digest(bytes: &[u8]) -> [u8; 32] {
    [*bytes.last().expect("a secret"); 32]
}

fn registry(sessions: usize) -> Registry<&'static str> {
    Registry::new(Capacity { sessions, detached_subscriptions: 10 }, GRACE, digest)
}

fn resumable() -> (Registry<&'static str>, String) {
    let mut registry = registry(2);
    let text = Secret::from_entropy([7; 24]).reveal(ID);
    registry.insert_resumable(ID, "it", Now::from_millis(0)).expect("room");
    (registry, text)
}

#[test]
fn sessions_that_nobody_attaches_leave_room_for_others() {
    let mut registry = registry(20);
    let make = |registry: &mut Registry<&str>, n: u8, at: u64| {
        let (id, secret) = (SessionId::from_entropy([n; 16]), Secret::from_entropy([n; 24]));
        let text = secret.reveal(id);
        registry.insert_resumable(id, "it", Now::from_millis(at)).map(|_| text)
    };
    let first = make(&mut registry, 1, 0).expect("room");
    make(&mut registry, 2, 0).expect("room");
    assert_eq!(make(&mut registry, 3, 0).expect_err("two wait").code, Code::TooManySessions);
    registry.insert_bare(SessionId::from_entropy([9; 16]), "bare").expect("room for others");
    registry.attach(&first).expect("known");
    make(&mut registry, 3, 0).expect("one was attached");
    assert!(make(&mut registry, 4, 0).is_err());
    assert_eq!(registry.reap(Now::from_millis(40_000)).len(), 2, "those that were not");
    make(&mut registry, 4, 40_000).expect("room");
    make(&mut registry, 5, 40_000).expect("room");
    assert!(make(&mut registry, 6, 40_000).is_err());
}

#[test]
fn only_the_secret_attaches() {
    let (mut registry, secret) = resumable();
    assert!(registry.attach(&secret).is_ok());
    let other = Secret::from_entropy([8; 24]).reveal(ID);
    let missing = Secret::from_entropy([6; 24]).reveal(SessionId::from_entropy([6; 16]));
    for wrong in [other.as_str(), missing.as_str(), "", ".", "x", &ID.to_string()] {
        let problem = registry.attach(wrong).expect_err("not the secret");
        assert_eq!(problem.code, Code::UnknownSession);
    }
    registry.insert_bare(SessionId::from_entropy([1; 16]), "bare").expect("room");
    let of_bare = Secret::from_entropy([1; 24]).reveal(SessionId::from_entropy([1; 16]));
    assert!(registry.attach(&of_bare).is_err());
    assert!(registry.resume(&of_bare, |_| "again").is_err());
    assert_eq!(
        registry.insert_bare(SessionId::from_entropy([2; 16]), "third").expect_err("full").code,
        Code::TooManySessions
    );
}

#[test]
fn the_last_attachment_wins_and_the_grace_period_runs_from_its_end() {
    let (mut registry, secret) = resumable();
    let (_, _, first) = registry.attach(&secret).expect("attached");
    let (_, _, second) = registry.attach(&secret).expect("attached");
    assert_eq!(registry.detach(ID, first, 0, Now::from_millis(10)), None);
    assert!(registry.reap(Now::from_millis(100_000)).is_empty(), "still attached");
    assert_eq!(registry.detach(ID, second, 0, Now::from_millis(100_000)), None);
    assert!(registry.reap(Now::from_millis(129_999)).is_empty());
    assert_eq!(registry.reap(Now::from_millis(130_000)), ["it"]);
    assert!(registry.attach(&secret).is_err());
}

#[test]
fn a_sign_of_life_keeps_a_session_without_a_connection_for_another_grace_period() {
    let (mut registry, secret) = resumable();
    registry.touch(&secret, Now::from_millis(29_999)).expect("known");
    assert!(registry.reap(Now::from_millis(59_998)).is_empty());
    let (_, _, attachment) = registry.attach(&secret).expect("known");
    registry.touch(&secret, Now::from_millis(60_000)).expect("known");
    assert!(registry.reap(Now::from_millis(200_000)).is_empty(), "it is attached");
    registry.detach(ID, attachment, 3, Now::from_millis(200_000));
    registry.touch(&secret, Now::from_millis(220_000)).expect("known");
    assert_eq!(registry.detached_subscriptions(), 3);
    assert!(registry.reap(Now::from_millis(249_999)).is_empty());
    assert_eq!(registry.reap(Now::from_millis(250_000)), ["it"]);
    assert_eq!(registry.detached_subscriptions(), 0);
    let gone = registry.touch(&secret, Now::from_millis(250_000)).expect_err("reaped");
    assert_eq!(gone.code, Code::UnknownSession);
}

#[test]
fn a_secret_has_its_session_made_again_without_a_connection() {
    let mut registry = registry(11);
    let secret = |n| Secret::from_entropy([n; 24]).reveal(SessionId::from_entropy([n; 16]));
    let mut ensure = |n, at| registry.ensure(&secret(n), |_| "it", Now::from_millis(at));
    let first = ensure(7, 0).expect("room");
    assert_eq!((first.id, first.known), (ID, false));
    assert!(ensure(7, 20_000).expect("room").known);
    assert!(!ensure(8, 20_000).expect("room").known);
    assert_eq!(ensure(9, 20_000).expect_err("two wait to be attached").code, Code::TooManySessions);
    assert!(ensure(7, 21_000).expect("room").known, "it needs no more room");
    let wrong = Secret::from_entropy([7; 24]).reveal(SessionId::from_entropy([8; 16]));
    let wrong = registry.ensure(&wrong, |_| "wrong", Now::from_millis(21_000)).expect_err("no secret");
    assert_eq!(wrong.code, Code::UnknownSession);
    assert_eq!(registry.reap(Now::from_millis(50_999)), ["it"], "the other");
    assert_eq!(registry.reap(Now::from_millis(51_000)), ["it"]);
}

#[test]
fn a_session_that_is_not_known_is_made_again_by_its_secret_alone() {
    let (mut registry, secret) = resumable();
    let resumed = registry.resume(&secret, |_| "again").expect("known");
    assert_eq!((resumed.handle, resumed.known), ("it", true));
    let first = resumed.attachment;
    registry.detach(ID, first, 0, Now::from_millis(0));
    assert_eq!(registry.reap(Now::from_millis(30_000)), ["it"]);
    assert!(registry.attach(&secret).is_err());

    let other = Secret::from_entropy([8; 24]).reveal(ID);
    let code = |registry: &mut Registry<&'static str>, secret: &str| {
        registry.resume(secret, |_| "again").expect_err("refused").code
    };
    for wrong in [other.as_str(), "", ".", &ID.to_string()] {
        assert_eq!(code(&mut registry, wrong), Code::UnknownSession);
    }
    let resumed = registry.resume(&secret, |_| "again").expect("made");
    assert_eq!((resumed.handle, resumed.known), ("again", false));
    let again = resumed.attachment;
    assert!(registry.reap(Now::from_millis(90_000)).is_empty(), "it is attached");
    assert_eq!(registry.authenticate(&secret).expect("known"), (ID, "again"));
    registry.detach(ID, first, 0, Now::from_millis(90_000));
    assert!(
        registry.reap(Now::from_millis(150_000)).is_empty(),
        "another life's connection is none of its own"
    );
    registry.detach(ID, again, 0, Now::from_millis(90_000));
    assert_eq!(registry.reap(Now::from_millis(120_000)), ["again"], "it can be resumed");

    for n in 1..=2 {
        registry.insert_bare(SessionId::from_entropy([n; 16]), "bare").expect("room");
    }
    assert_eq!(code(&mut registry, &secret), Code::TooManySessions);
    assert!(!format!("{:?}", Secret::from_entropy([7; 24])).contains('7'));
}

#[test]
fn a_bare_session_ends_with_its_connection() {
    let mut registry = registry(1);
    let (attachment, _) = registry.insert_bare(ID, "bare").expect("room");
    assert_eq!(registry.detach(ID, attachment, 0, Now::from_millis(0)), Some("bare"));
    assert!(registry.is_empty());
}

#[test]
fn a_ticket_is_good_once_and_for_thirty_seconds() {
    let (mut registry, _) = resumable();
    let ticket = |n| Ticket::from_entropy([n; 16]);
    registry.issue(ID, ticket(1), Now::from_millis(0)).expect("issued");
    let code = |result: Result<(SessionId, &str, Attachment), Problem>| result.expect_err("refused").code;
    assert_eq!(code(registry.redeem("nonsense", Now::from_millis(0))), Code::BadTicket);
    assert!(registry.redeem(&ticket(1).reveal(), Now::from_millis(29_999)).is_ok());
    assert_eq!(code(registry.redeem(&ticket(1).reveal(), Now::from_millis(29_999))), Code::BadTicket);
    registry.issue(ID, ticket(2), Now::from_millis(0)).expect("issued");
    assert_eq!(code(registry.redeem(&ticket(2).reveal(), Now::from_millis(30_000))), Code::BadTicket);
    for n in 0..limits::TICKETS_PER_SESSION as u8 {
        registry.issue(ID, ticket(10 + n), Now::from_millis(30_000)).expect("issued");
    }
    assert!(registry.issue(ID, ticket(99), Now::from_millis(30_000)).is_err(), "bounded");
    registry.issue(ID, ticket(99), Now::from_millis(60_000)).expect("the old ones expired");
}

#[test]
fn tickets_end_with_their_session() {
    let (mut registry, secret) = resumable();
    let (ticket, later) = (Ticket::from_entropy([1; 16]), Ticket::from_entropy([2; 16]));
    registry.issue(ID, ticket, Now::from_millis(25_000)).expect("room");
    assert_eq!(registry.reap(Now::from_millis(30_000)), ["it"]);
    registry.resume(&secret, |_| "again").expect("made again");
    let problem = registry.redeem(&ticket.reveal(), Now::from_millis(30_000)).expect_err("of another life");
    assert_eq!(problem.code, Code::BadTicket);
    registry.reap(Now::from_millis(60_000));
    registry.issue(ID, later, Now::from_millis(60_000)).expect("room");
}

#[test]
fn a_bare_session_becomes_that_of_a_secret() {
    let mut registry = registry(3);
    let secrets = [1, 2].map(|n| Secret::from_entropy([n; 24]).reveal(SessionId::from_entropy([n; 16])));
    let ids = secrets.each_ref().map(|secret| registry.identify(secret).expect("a secret"));
    let enter = |registry: &mut Registry<_>, n, handle| {
        let id = SessionId::from_entropy([n; 16]);
        (id, registry.insert_bare(id, handle).expect("room").0)
    };
    let (first, attachment) = enter(&mut registry, 8, "first");
    assert!(registry.is_bare(first));
    assert_eq!(registry.assume(first, ids[0]), None, "it was not known");
    assert!(!registry.is_bare(ids[0]) && registry.len() == 1);
    assert_eq!(registry.assume(first, ids[1]), None);
    assert_eq!(registry.len(), 1, "it is no longer here under the name that it had");
    registry.detach(ids[0], attachment, 4, Now::from_millis(0));
    assert_eq!(registry.detached_subscriptions(), 4, "it can be resumed");

    let ticket = Ticket::from_entropy([1; 16]);
    registry.issue(ids[0], ticket, Now::from_millis(0)).expect("issued");
    let (second, _) = enter(&mut registry, 9, "second");
    registry.insert_resumable(ids[1], "never attached", Now::from_millis(0)).expect("room");
    assert_eq!(registry.assume(second, ids[0]), Some("first"));
    assert_eq!((registry.len(), registry.detached_subscriptions()), (2, 0));
    assert_eq!(registry.redeem(&ticket.reveal(), Now::from_millis(0)).map(|it| it.1), Ok("second"));
    let (third, _) = enter(&mut registry, 7, "third");
    assert_eq!(registry.assume(third, ids[1]), Some("never attached"));
    assert_eq!(registry.reap(Now::from_millis(60_000)), [""; 0], "both have connections");
    assert_eq!(registry.authenticate(&secrets[1]).map(|it| it.1), Ok("third"));
    registry
        .insert_resumable(SessionId::from_entropy([6; 16]), "more", Now::from_millis(0))
        .expect("none waits");
}

#[test]
fn where_the_node_is_full_those_without_a_connection_give_way() {
    let mut registry = registry(3);
    let id = |n| SessionId::from_entropy([n; 16]);
    let secrets = [1, 2].map(|n| Secret::from_entropy([n; 24]).reveal(id(n)));
    let attach = |registry: &mut Registry<_>, n: usize, handle| {
        let resumed = registry.resume(&secrets[n], |_| handle).expect("room");
        assert_eq!(resumed.ended, None, "there is room");
        (id(n as u8 + 1), resumed.attachment)
    };
    let (first, second) = (attach(&mut registry, 0, "first"), attach(&mut registry, 1, "second"));
    let (_, ended) = registry.insert_bare(id(9), "bare").expect("room");
    assert_eq!(ended, None, "there is room");
    assert!(registry.insert_bare(id(8), "late").is_err(), "all have connections");
    registry.detach(second.0, second.1, 0, Now::from_millis(1));
    registry.detach(first.0, first.1, 0, Now::from_millis(2));
    let (_, again) = attach(&mut registry, 1, "unused");
    registry.detach(second.0, again, 0, Now::from_millis(3));
    let (late, ended) = registry.insert_bare(id(8), "late").expect("room is made");
    assert_eq!(ended, Some("first"), "the other was attached meanwhile");
    registry.detach(id(8), late, 0, Now::from_millis(4));
    assert_eq!(registry.reap(Now::from_millis(30_002)), [""; 0]);
    assert_eq!(registry.reap(Now::from_millis(30_003)), ["second"]);
}

#[test]
fn a_session_that_is_refused_ends_no_other() {
    let mut registry = registry(20);
    let id = |n| SessionId::from_entropy([n; 16]);
    let first = Secret::from_entropy([1; 24]).reveal(id(1));
    let attachment = registry.resume(&first, |_| "first").expect("room").attachment;
    registry.detach(id(1), attachment, 0, Now::from_millis(0));
    for n in 2..=3 {
        registry.insert_resumable(id(n), "waits", Now::from_millis(1)).expect("room");
    }
    for n in 4..=20 {
        registry.insert_bare(id(n), "bare").expect("room");
    }
    let refused = registry.insert_resumable(id(21), "third", Now::from_millis(2));
    assert_eq!(refused.expect_err("two wait").code, Code::TooManySessions);
    let wrong = Secret::from_entropy([21; 24]).reveal(id(22));
    assert_eq!(registry.resume(&wrong, |_| "wrong").expect_err("no secret").code, Code::UnknownSession);
    assert_eq!(registry.authenticate(&first).expect("known").1, "first");
    assert_eq!(registry.len(), 20);

    let (_, ended) = registry.insert_bare(id(21), "bare").expect("room is made");
    assert_eq!(ended, Some("first"));
}

#[test]
fn where_those_without_a_connection_hold_too_much_the_one_that_holds_most_gives_way() {
    let mut registry = registry(9);
    let secret = |n| Secret::from_entropy([n; 24]).reveal(SessionId::from_entropy([n; 16]));
    let names = ["", "a", "b", "c", "d", "e"];
    let visit = |registry: &mut Registry<_>, n: u8, holds, at| {
        let resumed = registry.resume(&secret(n), |_| names[usize::from(n)]).expect("room");
        registry.detach(SessionId::from_entropy([n; 16]), resumed.attachment, holds, Now::from_millis(at))
    };
    assert_eq!(visit(&mut registry, 1, 1, 0), None);
    assert_eq!(visit(&mut registry, 2, 4, 1), None);
    assert_eq!(visit(&mut registry, 3, 4, 2), None);
    assert_eq!(registry.detached_subscriptions(), 9);
    assert_eq!(
        visit(&mut registry, 4, 2, 3),
        Some("b"),
        "of those with four, the one that was there for longer"
    );
    assert_eq!(visit(&mut registry, 5, 9, 4), Some("e"), "itself");
    assert_eq!(registry.detached_subscriptions(), 7);

    // Those of sessions with connections do not count.
    let c = registry.attach(&secret(3)).expect("known").2;
    assert_eq!(
        (registry.detached_subscriptions(), registry.hold(SessionId::from_entropy([3; 16]), |_| 99)),
        (3, None)
    );
    assert_eq!(visit(&mut registry, 2, 7, 5), None);
    assert_eq!(registry.detach(SessionId::from_entropy([3; 16]), c, 1, Now::from_millis(6)), Some("b"));
    assert_eq!(registry.detached_subscriptions(), 4);

    // What it subscribes to meanwhile does, and does not make its stay longer.
    assert_eq!(registry.hold(SessionId::from_entropy([1; 16]), |_| 7), None);
    assert_eq!(registry.hold(SessionId::from_entropy([1; 16]), |_| 8), Some("a"));
    assert_eq!(registry.hold(SessionId::from_entropy([1; 16]), |_| 9), None, "it has ended");
    assert_eq!(registry.hold(SessionId::from_entropy([4; 16]), |_| 1), None);
    assert_eq!(registry.detached_subscriptions(), 2);
    assert_eq!(registry.reap(Now::from_millis(30_003)), ["d"]);
    assert_eq!(registry.reap(Now::from_millis(30_006)), ["c"]);
    assert_eq!(registry.detached_subscriptions(), 0);
}

//! One client of the trial, with what happens to it.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use tokio::time;

use super::{
    ledger::Ledger,
    limits,
    link::{Broken, Link, Opening, Seen, Session},
    place::{Overlap, Place},
    plant::{Kind, Plant},
    report::Report,
    schedule::{By, Fault, Moment, Old, Route, Schedule, Strike},
    world::World,
};

/// A client that reads, and what its application has seen.
#[derive(Debug)]
pub(super) struct Client {
    world: Arc<World>,
    strikes: Vec<Strike>,
    transport: Route,
    by: By,
    /// Of loopback; another one after each new address.
    from: Ipv4Addr,
    link: Option<Link>,
    session: Option<Session>,
    place: Place,
    overlap: Option<Overlap>,
    plant: Plant,
    struck: bool,
    /// What it is recovering from, since when, and what it has then.
    recovering: Vec<(Fault, Duration, Vec<u64>)>,
    /// Connections in a row that ended before anything had come.
    fruitless: usize,
    ledger: Ledger,
    report: Report,
}

/// The client can do nothing more.
#[derive(Clone, Copy, Debug)]
struct GivenUp;

impl Client {
    /// Connects and subscribes, before anything is published.
    pub(super) async fn start(
        world: Arc<World>,
        schedule: Schedule,
        plant: Option<Kind>,
    ) -> Result<Self, Broken> {
        let mut it = Self {
            strikes: schedule.strikes,
            transport: schedule.first,
            by: schedule.by,
            from: Ipv4Addr::LOCALHOST,
            link: None,
            session: None,
            place: Place::new(world.channels.len()),
            overlap: None,
            plant: Plant::new(plant),
            struck: false,
            recovering: Vec::new(),
            fruitless: 0,
            ledger: Ledger::new(&world.totals),
            report: Report::default(),
            world,
        };
        it.open().await?;
        Ok(it)
    }

    /// Reads all events, with what happens meanwhile, and reports.
    pub(super) async fn run(mut self) -> Report {
        // Whoever gives up has said why, and what it has not read is lost.
        let _ = self.read().await;
        self.report.events = self.ledger.events();
        self.report.faults = self.ledger.faults();
        self.report
    }

    async fn read(&mut self) -> Result<(), GivenUp> {
        for strike in std::mem::take(&mut self.strikes) {
            let moment = match strike.moment {
                Moment::At(moment) => {
                    self.catch_up().await?;
                    moment
                }
                Moment::Soon(events) => self.ledger.progress() + events,
            };
            while self.ledger.progress() < moment && !self.ledger.is_at_the_end() {
                self.step().await?;
            }
            self.strike(strike).await?;
        }
        self.catch_up().await?;
        while !self.ledger.is_at_the_end() {
            self.step().await?;
        }
        self.linger().await;
        Ok(())
    }

    /// Takes what comes next. A connection that has ended is followed by another.
    async fn step(&mut self) -> Result<(), GivenUp> {
        let world = self.world.clone();
        let Some(link) = &mut self.link else { return self.come_back().await };
        match time::timeout(limits::PATIENCE, link.next(&world)).await {
            Ok(Ok(seen)) => {
                self.take(seen);
                Ok(())
            }
            Ok(Err(why)) => {
                self.link = None;
                self.report.broken(self.transport, &why);
                self.recover(Fault::Broken);
                self.fruitless += 1;
                if self.fruitless > limits::ATTEMPTS {
                    return Err(self.give_up("which ends before anything has come"));
                }
                self.come_back().await
            }
            Err(_) => Err(self.give_up("by which nothing comes any more, while there is more")),
        }
    }

    fn take(&mut self, seen: Seen) {
        self.fruitless = 0;
        let event = match seen {
            Seen::Event(event) => event,
            Seen::Gap => return self.ledger.gap(),
            Seen::Reset => return self.ledger.reset(),
        };
        if self.overlap.as_mut().is_some_and(|it| it.drops(&event)) {
            return;
        }
        if self.overlap.as_ref().is_some_and(Overlap::is_over) {
            self.overlap = None;
        }
        // A cursor says where the new connection stands, which is behind as long as something comes twice.
        let (channel, number) = (event.channel, event.number);
        self.place.note(event, &self.world.channels, self.overlap.is_none());
        for (channel, number) in self.plant.pass(self.struck, channel, number) {
            self.ledger.event(channel, number);
        }
        if !self.recovering.is_empty() {
            self.note_recovered();
        }
    }

    /// Lets something happen, and connects again where that is needed.
    async fn strike(&mut self, strike: Strike) -> Result<(), GivenUp> {
        let (world, was) = (self.world.clone(), self.transport);
        self.struck = true;
        self.by = strike.by;
        // What it had not recovered from is part of what it recovers from now.
        self.recovering.clear();
        let within = limits::OPENING + strike.pause;
        let done = time::timeout(within, self.suffer(&world, strike)).await;
        if let Err(why) = done.unwrap_or_else(|_| Err(Broken::late())) {
            self.link = None;
            self.report.broken(was, &why);
        }
        if strike.fault == Fault::Moved {
            self.move_to(strike).await?;
        } else {
            self.recover(strike.fault);
            self.transport = strike.to;
            if self.link.is_none() {
                self.come_back().await?;
            }
        }
        self.report.went(was, self.transport);
        Ok(())
    }

    /// What happens before the client does something about it.
    async fn suffer(&mut self, world: &World, strike: Strike) -> Result<(), Broken> {
        let Some(mut link) = self.link.take() else { return Ok(()) };
        match strike.fault {
            Fault::Killed => {
                // That it was broken already is as good.
                let _ = link.kill(world).await;
                time::sleep(strike.pause).await;
                return Ok(());
            }
            Fault::Stalled => link.stall(world, strike.pause).await?,
            Fault::Frozen => link.freeze(strike.pause).await?,
            Fault::Readdressed => {
                self.from = next_address(self.from);
                match link.readdress().await {
                    Some(done) => done?,
                    None => return Ok(()),
                }
            }
            Fault::Moved | Fault::Broken => {}
        }
        self.link = Some(link);
        Ok(())
    }

    /// Reads on until it has recovered.
    async fn catch_up(&mut self) -> Result<(), GivenUp> {
        self.note_recovered();
        while !self.recovering.is_empty() {
            self.step().await?;
        }
        Ok(())
    }

    /// Begins to recover. The client has when it has the next event of each channel too.
    fn recover(&mut self, fault: Fault) {
        self.report.suffered(fault);
        let next = self.world.published().into_iter().zip(&self.world.totals);
        let next = next.map(|(published, total)| (published + 1).min(*total)).collect();
        self.recovering.push((fault, self.world.now(), next));
    }

    fn note_recovered(&mut self) {
        let Self { recovering, ledger, report, world, .. } = self;
        // What comes over a connection that is being left does not count.
        if self.link.is_some() {
            recovering.retain(|(fault, began, next)| {
                let recovered = ledger.has_reached(next);
                if recovered {
                    report.recovered(*fault, world.now().saturating_sub(*began));
                }
                !recovered
            });
        }
    }

    /// Opens another connection, in a few attempts.
    async fn come_back(&mut self) -> Result<(), GivenUp> {
        if self.plant.is_late() {
            self.place.skip_one();
        }
        for _ in 0..limits::ATTEMPTS {
            match self.open().await {
                Ok(()) => return Ok(()),
                Err(why) => self.refused(&why),
            }
            time::sleep(limits::AGAIN).await;
        }
        Err(self.give_up("by which it could not come back"))
    }

    async fn open(&mut self) -> Result<(), Broken> {
        let mut opening = self.opening().await?;
        let link = Link::open(&self.world, &mut opening).await?;
        self.opened(link, &opening, None);
        Ok(())
    }

    /// Moves while the connection before lives.
    async fn move_to(&mut self, strike: Strike) -> Result<(), GivenUp> {
        self.transport = strike.to;
        if self.plant.is_late() {
            self.place.skip_one();
        }
        let mut old = self.link.take();
        match &mut old {
            Some(old) if strike.old == Old::LetGo => old.let_go(),
            Some(old) => old.retire(),
            None => {}
        }
        self.recover(Fault::Moved);
        for _ in 0..limits::ATTEMPTS {
            match self.open_beside(&mut old, strike.old == Old::Taken).await {
                Ok(()) => return Ok(()),
                Err(why) => self.refused(&why),
            }
            time::sleep(limits::AGAIN).await;
        }
        Err(self.give_up("to which it could not move"))
    }

    /// Opens a connection. What comes over the old one meanwhile is taken, or not.
    async fn open_beside(&mut self, old: &mut Option<Link>, takes_old: bool) -> Result<(), Broken> {
        let world = self.world.clone();
        let mut opening = self.opening().await?;
        let began = opening.place.clone();
        let link = {
            let opened = Link::open(&world, &mut opening);
            tokio::pin!(opened);
            loop {
                let Some(left) = old.as_mut().filter(|_| takes_old) else { break opened.await? };
                tokio::select! {
                    link = &mut opened => break link?,
                    seen = left.next(&world) => match seen {
                        Ok(seen) => self.take(seen),
                        // It was replaced.
                        Err(_) => *old = None,
                    },
                }
            }
        };
        let overlap = Overlap::between(&began, &self.place);
        self.opened(link, &opening, Some(overlap));
        Ok(())
    }

    /// What is needed to open a connection.
    async fn opening(&mut self) -> Result<Opening, Broken> {
        self.session = match (self.by, self.session.take()) {
            (By::Cursor, _) => None,
            (By::Session, None) => Some(Session::make(&self.world).await?),
            (By::Session, session) => session,
        };
        let (place, session) = (self.place.clone(), self.session.clone());
        Ok(Opening { transport: self.transport, place, session, from: Some(self.from) })
    }

    fn opened(&mut self, link: Link, opening: &Opening, overlap: Option<Overlap>) {
        self.link = Some(link);
        self.place.adopt(&opening.place);
        self.overlap = overlap.filter(|it| !it.is_over());
    }

    /// What the session has is not known any more: the next attempt makes another.
    fn refused(&mut self, why: &Broken) {
        self.session = None;
        self.report.refused(self.transport, why);
    }

    fn give_up(&mut self, why: &str) -> GivenUp {
        self.report.gave_up(self.transport, why);
        GivenUp
    }

    /// Waits for what should not come.
    async fn linger(&mut self) {
        let world = self.world.clone();
        let Some(mut link) = self.link.take() else { return };
        let _ = time::timeout(limits::LINGER, async {
            while let Ok(seen) = link.next(&world).await {
                self.take(seen);
            }
        })
        .await;
    }
}

/// Another address of loopback.
fn next_address(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, if d == 254 { 1 } else { d + 1 })
}

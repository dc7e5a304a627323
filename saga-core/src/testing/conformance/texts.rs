//! What users write is data: it is kept as it was, and none of it is ever read as SQL.

use super::rig::{BEGAN, Rig, go, holds, same, start};
use super::{Broken, Verdict};
use crate::id::MailId;
use crate::journal::MailBody;
use crate::store::{CommitReply, Error, Mail, StartReply};

/// Texts that stores have been seen to lose.
const TEXTS: &[&str] = &[
    "",
    " ",
    "plain",
    "O'Brien \"quoted\" `ticked` \\ \\\\ \\u0041",
    "'); DROP TABLE saga_journal; --",
    "$1 ?1 :name @x %s {} {{}} [\"a\",1]",
    "tab\tnewline\ncarriage\r bell\u{7} delete\u{7f}",
    "ünï¢ødé 数据 🦀 e\u{301} \u{202e}right to left",
    "\u{feff}byte order mark \u{fffd} \u{10ffff} \u{fffe}",
    "null NULL \\N NaN 1e999 0x00",
    "trailing space ",
];

pub(super) async fn every_text_is_kept_as_it_was(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    for text in TEXTS {
        let run = rig.owned(fence, text).await?;
        let found = rig.a.query.find(&super::rig::named("place-order"), text).await?;
        same!(found.map(|saga| (saga.run, saga.saga)), Some((run, (*text).to_owned())), "the saga by its id");
        let mail = Mail::new(MailId::new(), run, &MailBody::Cancel { reason: (*text).into() });
        rig.store().post(std::slice::from_ref(&mail)).await?;
        let mut commit = go(run, 1);
        commit.body = serde_json::to_string(&[text]).expect("text can be written").into();
        let body = commit.body.clone();
        same!(rig.commit(fence, commit).await?, [mail], "the mail");
        rig.journal_is(run, &[BEGAN, &body]).await?;
        let mut again = start(text, true);
        again.digest = [8; 32];
        let exists = StartReply::Exists { run, digest: [7; 32], end: None };
        same!(rig.store().start(Some(fence), &[again]).await?, [exists], "another start of {text:?}");
    }
    // A body's own spacing and its escapes belong to it.
    let run = rig.owned(fence, "spacing").await?;
    for (number, body) in
        (1..).zip([r#"[ "a" ,  1.0e2, {"k" : null} ]"#, r#"["\u0000","\ud83e\udd80","\/"]"#, "[]"])
    {
        let mut commit = go(run, number);
        commit.body = body.into();
        rig.commit(fence, commit).await?;
        let kept = rig.a.query.journal(run).await?.pop().map(|row| row.body);
        same!(kept.as_deref(), Some(body), "a body");
    }
    Ok(())
}

pub(super) async fn a_huge_body_is_kept(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let (huge, small) = (rig.owned(fence, "huge").await?, rig.owned(fence, "small").await?);
    let mut batch = [go(huge, 1), go(small, 1)];
    // Not a repetition of one byte, which a database would compress to nothing.
    let numbers: Vec<u64> = (0..250_000_u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
    batch[0].body = serde_json::to_string(&numbers).expect("numbers can be written").into();
    let replies = rig.store().commit(fence, &batch).await?;
    same!(replies, vec![CommitReply::Committed { mail: vec![] }; 2], "a huge commit beside a small one");
    let kept = rig.a.query.journal(huge).await?.pop().map(|row| row.body);
    holds!(
        kept == Some(batch[0].body.clone()),
        "a body of {} bytes came back otherwise",
        batch[0].body.len()
    );
    rig.journal_is(small, &[BEGAN, &batch[1].body]).await
}

/// A store either keeps a NUL character or refuses it as bad data; it never cuts a text short there.
pub(super) async fn a_nul_character_harms_nobody(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let good = rig.owned(fence, "good").await?;
    let text = "before\0after";
    let bad = start(text, true);
    let definition = super::rig::named("place-order");
    match rig.store().start(Some(fence), std::slice::from_ref(&bad)).await {
        Ok(replies) => {
            same!(replies, [StartReply::Started], "a start whose id holds a NUL character");
            let kept = rig.a.query.find(&definition, text).await?.map(|saga| saga.saga);
            same!(kept.as_deref(), Some(text), "the id that holds a NUL character");
        }
        Err(Error::Refused(_)) => same!(rig.store().load(bad.run).await?, None, "the start that was refused"),
        Err(other) => return Err(Broken(format!("bad data is {other:?}, not `Refused`"))),
    }
    same!(rig.a.query.find(&definition, "before").await?, None, "a saga whose id was cut short");
    let mut bad = go(good, 1);
    bad.body = "[\"before\0after\"]".into();
    match rig.store().commit(fence, std::slice::from_ref(&bad)).await {
        Ok(replies) => {
            same!(replies, [CommitReply::Committed { mail: vec![] }], "a body that holds a NUL character");
            rig.journal_is(good, &[BEGAN, &bad.body]).await
        }
        Err(Error::Refused(_)) => {
            rig.journal_is(good, &[BEGAN]).await?;
            rig.commit(fence, go(good, 1)).await.map(|_| ())
        }
        Err(other) => Err(Broken(format!("bad data is {other:?}, not `Refused`"))),
    }
}

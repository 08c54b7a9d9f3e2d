//! `setup webhook`: once, and it says what it found.

use insta::assert_snapshot;
use serde_json::json;

use crate::{World, exists, support::defguard::WebhookSettings};

const TOKEN: &str = "a-token-that-is-long-enough-0123456789";
const URL: &str = "https://matrix.example.com/webhook/defguard";

async fn world(name: &'static str) -> World {
    let world = World::new(name).await;
    let file = world.write("webhook-token", TOKEN);
    world.configure(&format!(
        "\n[webhook]\nlisten = \"127.0.0.1:9118\"\ntoken_file = \"{}\"\nurl = \"{URL}\"\n",
        file.display()
    ));
    world
}

/// The one webhook that Defguard has.
fn registered(world: &World) -> WebhookSettings {
    let state = world.defguard.state();
    assert_eq!(state.webhooks.len(), 1, "{:?}", state.webhooks);
    state.webhooks[0].settings.clone()
}

#[tokio::test]
async fn the_webhook_is_registered_once() {
    let world = world("hook").await;
    let tried = world.run(&["setup", "webhook", "--dry-run"]).await.ends_with(0);
    assert_snapshot!(tried.out, @"https://matrix.example.com/webhook/defguard would be registered in Defguard, for people created, modified and deleted.");
    assert!(world.defguard.state().webhooks.is_empty());
    let done = world.run(&["setup", "webhook"]).await.ends_with(0);
    assert_snapshot!(done.out, @"https://matrix.example.com/webhook/defguard was registered in Defguard, for people created, modified and deleted.");
    let found = registered(&world);
    assert_eq!((found.url.as_str(), found.token.as_str(), found.enabled), (URL, TOKEN, true));
    assert!(found.on_user_created && found.on_user_deleted && found.on_user_modified);
    assert!(!found.on_hwkey_provision);
    let again = world.run(&["setup", "webhook"]).await.ends_with(0);
    assert_snapshot!(again.out, @"https://matrix.example.com/webhook/defguard is registered in Defguard already, and right: nothing to do.");
    let again = world.run(&["setup", "webhook", "--json"]).await.ends_with(0).json();
    assert_eq!(again, json!({"url": URL, "outcome": "unchanged", "differences": [], "dry_run": false}));
    registered(&world);
    assert!(!exists(&world.state()), "a store was made");
}

#[tokio::test]
async fn a_webhook_that_is_switched_off_or_tells_too_little_is_put_right() {
    let world = world("hookoff").await;
    world.run(&["setup", "webhook"]).await.ends_with(0);
    {
        let mut state = world.defguard.state();
        let settings = &mut state.webhooks[0].settings;
        (settings.enabled, settings.on_user_deleted, settings.on_hwkey_provision) = (false, false, true);
        settings.description = "of Anna's".to_owned();
    }
    let done = world.run(&["setup", "webhook"]).await.ends_with(0);
    assert_snapshot!(done.out, @"https://matrix.example.com/webhook/defguard is registered in Defguard, but it is switched off, and it does not send all of user created, modified and deleted: that was corrected.");
    let found = registered(&world);
    assert!(found.enabled && found.on_user_deleted);
    // What is not ours to decide stays.
    assert_eq!((found.description.as_str(), found.on_hwkey_provision), ("of Anna's", true));
}

#[tokio::test]
async fn another_token_is_only_replaced_by_wish() {
    let world = world("hooktoken").await;
    world.run(&["setup", "webhook"]).await.ends_with(0);
    world.defguard.state().webhooks[0].settings.token = "the-token-of-somebody-else".to_owned();
    let tried = world.run(&["setup", "webhook", "--dry-run"]).await.ends_with(0);
    assert!(tried.out.contains("would be corrected"), "{tried:?}");
    let refused = world.run(&["setup", "webhook"]).await.ends_with(1);
    assert_snapshot!(refused.err, @r"
    https://matrix.example.com/webhook/defguard is registered in Defguard, but its token is another one than that of webhook.token_file.
    nobody can be asked here: give --replace to do it
    nothing was changed
    ");
    assert_eq!(registered(&world).token, "the-token-of-somebody-else");
    let done = world.run(&["setup", "webhook", "--replace", "--json"]).await.ends_with(0);
    assert_eq!(done.json()["outcome"], "corrected");
    assert_eq!(registered(&world).token, TOKEN);
    for shown in [tried, done] {
        let text = format!("{}{}", shown.out, shown.err);
        assert!(!text.contains(TOKEN) && !text.contains("somebody-else"), "{text}");
    }
}

#[tokio::test]
async fn without_a_webhook_in_the_config_it_says_which_keys_are_needed() {
    let world = World::new("nohook").await;
    let shown = world.run(&["setup", "webhook"]).await.ends_with(2);
    assert!(shown.err.contains("webhook.listen") && shown.err.contains("webhook.token_file"), "{shown:?}");
    assert_eq!(world.defguard.requests().len(), 0);
}

#[tokio::test]
async fn an_account_that_may_not_do_it_is_told_so() {
    let world = world("hookright").await;
    world.defguard.state().groups[0].members.clear();
    let shown = world.run(&["setup", "webhook"]).await.ends_with(5);
    assert!(shown.err.contains("status 403") || shown.err.contains("administrator"), "{shown:?}");
}

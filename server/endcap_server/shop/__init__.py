"""The shop: item store, rules, and the texts that go into prompts and titles."""

"""The SDKs of the push protocol, and what they have to show."""

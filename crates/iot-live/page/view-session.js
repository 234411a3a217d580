// Who is signed in, and the form that asks for a token.

import { byId, setText } from './dom.js';
import { safeText } from './format.js';
import { cleanToken, describeNeed } from './session.js';

export class SessionView {
  /** `onToken()`: the session has another token. */
  constructor(session, onToken) {
    this.session = session;
    this.dialog = byId('sign-in');
    this.note = byId('sign-in-note');
    this.input = byId('token');
    byId('sign-in-form').addEventListener('submit', (event) => {
      event.preventDefault();
      const token = cleanToken(this.input.value);
      if (token === '') return setText(this.note, 'This is not a token: it has spaces or signs that no token has.');
      this.input.value = '';
      session.signIn(token);
      this.dialog.close();
      onToken();
    });
    byId('sign-in-open').addEventListener('click', () => this.#open());
    byId('sign-out').addEventListener('click', () => {
      session.signOut();
      // Nothing of what was shown stays.
      location.reload();
    });
  }

  /** The server has let the page in. */
  onConnect({ identity }) {
    this.dialog.close();
    const isKnown = typeof identity?.name === 'string' && (this.session.token !== '' || identity.name !== 'anonymous');
    byId('who').hidden = !isKnown;
    byId('sign-out').hidden = this.session.token === '';
    byId('sign-in-open').hidden = true;
    if (isKnown) setText(byId('who-name'), `${safeText(identity.name, 60)} (${safeText(identity.role, 20)})`);
  }

  /** The server asks for a token. */
  ask(code) {
    const hadToken = this.session.token !== '';
    this.session.signOut();
    byId('who').hidden = true;
    byId('sign-in-open').hidden = false;
    setText(this.note, describeNeed(code, hadToken));
    this.#open();
  }

  #open() {
    if (!this.dialog.open) this.dialog.showModal();
    this.input.focus();
  }
}

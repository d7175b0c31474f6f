/* The state as it changes: one object that is replaced, never altered; undo and redo of what changes the numbers. */

const UNDONE = ["tokens", "other", "answer", "wrong", "picked", "read", "stacks", "active", "compare"];

const undoable = (a, b) => UNDONE.some((name) => JSON.stringify(a[name]) !== JSON.stringify(b[name]));

export function createStore(first) {
  let state = first;
  let past = [], future = [];
  const listeners = new Set();

  const tell = () => listeners.forEach((listener) => listener(state));
  const back = (to) => {
    state = { ...state, ...Object.fromEntries(UNDONE.map((name) => [name, to[name]])) };
    tell();
  };

  return {
    get: () => state,
    /* Take over some fields; `merge` names a run of small steps that one undo takes back together. */
    set(fields, merge = null) {
      const next = { ...state, ...fields };
      if (undoable(state, next)) {
        const last = past[past.length - 1];
        if (!merge || last?.merge !== merge || future.length) past.push({ state, merge });
        if (past.length > 200) past = past.slice(-200);
        future = [];
      }
      state = next;
      tell();
    },
    replace(next) {
      past.push({ state, merge: null });
      future = [];
      state = next;
      tell();
    },
    undo() {
      if (!past.length) return;
      future.push(state);
      back(past.pop().state);
    },
    redo() {
      if (!future.length) return;
      past.push({ state, merge: null });
      back(future.pop());
    },
    canUndo: () => past.length > 0,
    canRedo: () => future.length > 0,
    listen(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

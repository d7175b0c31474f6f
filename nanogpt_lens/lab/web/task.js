/* One thing that is computed again and again: the newest question counts, results of older ones are dropped. */

export function createTask(changed) {
  let number = 0, timer = null;
  const task = { key: null, done: null, value: null, busy: false, problem: null, progress: null };

  /* Ask for `work`, unless the same key is asked for already. `work({ alive, show })` may show parts on its way. */
  task.want = (key, work, delay = 0) => {
    if (key === task.key) return;
    const mine = ++number;
    const alive = () => mine === number;
    Object.assign(task, { key, busy: true, problem: null, progress: null });
    clearTimeout(timer);
    const show = (value, progress = null) => {
      if (!alive()) return;
      Object.assign(task, { value, progress });
      changed();
    };
    const begin = async () => {
      try {
        const value = await work({ alive, show });
        if (alive()) Object.assign(task, { value, done: key });
      } catch (error) {
        if (!alive()) return;
        if (error?.name === "Cancelled") task.key = null;
        else task.problem = error?.message || String(error);
      }
      if (!alive()) return;
      Object.assign(task, { busy: false, progress: null });
      changed();
    };
    if (delay) timer = setTimeout(begin, delay);
    else begin();
  };

  /* Stop waiting; what was computed last stays. */
  task.drop = () => {
    number++;
    clearTimeout(timer);
    Object.assign(task, { key: task.done, busy: false, progress: null });
    changed();
  };
  task.fresh = () => task.done !== null && task.done === task.key;
  return task;
}

/* The metric's change for each of many candidates, measured some at a time, so that it can be stopped and seen on its
   way. `show(values, done / total)`; the values not there yet are NaN. */
export async function sweepInParts(lab, request, { alive, show }, size = 32) {
  const changes = new Float64Array(request.candidates.length).fill(NaN);
  for (let from = 0; from < changes.length && alive(); from += size) {
    const candidates = request.candidates.slice(from, from + size);
    const { values, base } = await lab.sweep({ ...request, candidates });
    values.forEach((value, i) => { changes[from + i] = value - base; });
    show(changes, Math.min(from + size, changes.length) / changes.length);
  }
  return changes;
}

// From measurements to lines of a small chart.

export interface Sample {
  /** Milliseconds. */
  at: number;
  /** Microseconds of processor time since the start. */
  cpu: number;
  memory: number;
}

/** Processors in use between each two samples. A counter that fell is a sandbox that started anew. */
export function shares(samples: Sample[]): number[] {
  const found: number[] = [];
  for (let index = 1; index < samples.length; index++) {
    const before = samples[index - 1];
    const after = samples[index];
    if (!before || !after || after.at <= before.at) continue;
    found.push(Math.max(0, after.cpu - before.cpu) / 1000 / (after.at - before.at));
  }
  return found;
}

/** The points of an SVG polyline; the newest is at the right edge. */
export function points(values: number[], top: number, width: number, height: number, most: number): string {
  const step = width / (most - 1);
  return values
    .map((value, index) => {
      const x = width - (values.length - 1 - index) * step;
      const y = height - 1 - Math.min(1, value / top) * (height - 2);
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    })
    .join(" ");
}

/** As an area down to the ground. */
export function area(values: number[], top: number, width: number, height: number, most: number): string {
  const line = points(values, top, width, height, most);
  if (line === "") return "";
  const first = line.split(" ", 1)[0]?.split(",", 1)[0];
  return `${first},${height} ${line} ${width.toFixed(1)},${height}`;
}

/** A chart's values, before them a level line: one sample alone would be a point that nobody sees. */
export function started(values: number[], least: number): number[] {
  const first = values[0];
  if (first === undefined || values.length >= least) return values;
  return [...Array<number>(least - values.length).fill(first), ...values];
}

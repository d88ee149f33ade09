package headspring.flink;

import java.util.Arrays;

/**
 * Windows of one series: samples into panes, panes into features. The same arithmetic in the same order as
 * `streaming/headspring/streaming/windows/kernel.py`, which says why; the two are held equal by a test on real servers.
 *
 * <p>A sample is first only kept, until the evaluation comes that it belongs to. From then on it waits until its own series
 * has moved on by the lateness; then it is applied, in order of time, and settled. An evaluation counts those that wait, too,
 * and takes them back afterwards.
 */
final class Series {
    /** No time yet. */
    static final long NEVER = Long.MIN_VALUE;

    private static final int COUNTER = 2;
    private static final int DELTA = 3;

    /** Numbers of one sample: event time in ns, value, kind, time on the watermark's scale (its stamp) in ms. */
    static final int SAMPLE = 4;

    private static final int TIME = 0;
    private static final int VALUE = 1;
    private static final int KIND = 2;
    private static final int STAMP = 3;

    /** Numbers of one pane. */
    static final int CELL = 8;

    private static final int PANE = 0;
    static final int N = 1;
    private static final int MEAN = 2;
    private static final int M2 = 3;
    private static final int MIN = 4;
    private static final int MAX = 5;
    private static final int FIRST = 6;
    private static final int LAST = 7;

    /** Newest event time taken, ns: lateness is judged against it. */
    long newest = NEVER;

    /** Newest event time that an evaluation has come to, ns. */
    long reached = NEVER;

    /** Event time of the newest sample that was settled, ns. */
    long settled = NEVER;

    /** Event time of the newest settled sample that counted, ns. */
    long lastTime = NEVER;

    /** What rates are reckoned from. */
    long previousTime = NEVER;

    double previousValue;

    /** Newest stamp ever, ms. */
    long touched = NEVER;

    /** The next evaluation that is planned, and the last that was made, ms. */
    long due = NEVER;

    long evaluated = NEVER;

    /** When it is looked whether this series is to be forgotten, ms. */
    long sweep = NEVER;

    /** A ring of panes, and the length of each. */
    double[] cells = {};

    long paneNs;

    /** Samples that no evaluation has come to, in order of stamps: where the first begins, where the last ends. */
    long[] kept = {};

    int head;
    int tail;

    /** Samples that wait, in order of (time, value): where the last ends. */
    long[] samples = {};

    int end;

    /** Takes a sample; false if it is later than the lateness allows. */
    boolean take(long time, double value, byte kind, long stamp, Shape shape) {
        if (newest != NEVER && time <= newest - shape.latenessNs()) {
            return false;
        }
        newest = Math.max(newest, time);
        touched = Math.max(touched, stamp);
        if (tail == kept.length) {
            kept = Arrays.copyOfRange(kept, head, head + Math.max(SAMPLE, 2 * (tail - head)));
            tail -= head;
            head = 0;
        }
        int at = tail;
        tail += SAMPLE;
        while (at > head && kept[at - SAMPLE + STAMP] > stamp) {
            System.arraycopy(kept, at - SAMPLE, kept, at, SAMPLE);
            at -= SAMPLE;
        }
        kept[at + TIME] = time;
        kept[at + VALUE] = Double.doubleToRawLongBits(value);
        kept[at + KIND] = kind & 0xff;
        kept[at + STAMP] = stamp;
        return true;
    }

    /**
     * Looks at what came before `boundary` (ms): settles what is due, then writes the features into `out`.
     *
     * @return whether there are features: not without a finite sample since the last look, nor before one has counted
     */
    boolean evaluate(long boundary, Shape shape, Features out) {
        boolean changed = false;
        for (; head < tail && kept[head + STAMP] < boundary; head += SAMPLE) {
            reached = Math.max(reached, kept[head + TIME]);
            changed |= Double.isFinite(Double.longBitsToDouble(kept[head + VALUE]));
            await(kept, head);
        }
        if (head == tail) {
            head = 0;
            tail = 0;
        }
        evaluated = boundary;
        settle(shape, out);
        if (!changed) {
            return false;
        }
        long time = previousTime;
        double value = previousValue;
        long last = lastTime;
        out.saved = 0;
        for (int i = 0; i < end; i += SAMPLE) {
            out.save(cells, cell(samples[i + TIME], shape));
            absorb(i, shape);
        }
        boolean any = lastTime != NEVER;
        if (any) {
            merge(out, Math.floorDiv(lastTime, shape.paneNs()), shape.panes());
            out.lastTime = lastTime;
        }
        out.restore(cells);
        previousTime = time;
        previousValue = value;
        lastTime = last;
        return any;
    }

    /** The earliest stamp among the samples that no evaluation has come to; {@link #NEVER} if there are none. */
    long unseen() {
        return head < tail ? kept[head + STAMP] : NEVER;
    }

    /** Puts a sample among those that wait. */
    private void await(long[] from, int place) {
        if (end == samples.length) {
            samples = Arrays.copyOf(samples, Math.max(4 * SAMPLE, 2 * end));
        }
        double value = Double.longBitsToDouble(from[place + VALUE]);
        int at = end;
        end += SAMPLE;
        while (at > 0 && comesAfter(at - SAMPLE, from[place + TIME], value)) {
            System.arraycopy(samples, at - SAMPLE, samples, at, SAMPLE);
            at -= SAMPLE;
        }
        System.arraycopy(from, place, samples, at, SAMPLE);
    }

    /** By time, then value, what is not a number last. */
    private boolean comesAfter(int i, long time, double value) {
        return samples[i + TIME] > time
                || (samples[i + TIME] == time && !Double.isNaN(value) && !(value(i) <= value));
    }

    private double value(int i) {
        return Double.longBitsToDouble(samples[i + VALUE]);
    }

    private void settle(Shape shape, Features out) {
        if (cells.length != shape.panes() * CELL || paneNs != shape.paneNs()) {
            // New, or out of a savepoint of other windows: their panes mean nothing here.
            cells = new double[shape.panes() * CELL];
            paneNs = shape.paneNs();
            lastTime = NEVER;
        }
        int left = 0;
        long seen = NEVER;
        for (int i = 0; i < end; i += SAMPLE) {
            long time = samples[i + TIME];
            if (time == seen) {
                out.repeated++;
            } else if (time <= settled) {
                out.late++;
            } else if (time <= reached - shape.latenessNs()) {
                seen = time;
                settled = time;
                absorb(i, shape);
            } else {
                seen = time;
                if (i != left) {
                    System.arraycopy(samples, i, samples, left, SAMPLE);
                }
                left += SAMPLE;
            }
        }
        end = left;
    }

    /** Where the pane of this time begins in {@link #cells}. */
    private static int cell(long time, Shape shape) {
        return CELL * (int) Math.floorMod(Math.floorDiv(time, shape.paneNs()), (long) shape.panes());
    }

    /** One of those that wait into panes. Counters and deltas become rates; neither is known after a gap. */
    private void absorb(int i, Shape shape) {
        long time = samples[i + TIME];
        double value = value(i);
        if (!Double.isFinite(value)) {
            previousTime = NEVER;
            previousValue = 0.0;
            return;
        }
        long kind = samples[i + KIND];
        double x = value;
        boolean unknown = false;
        if (kind == COUNTER || kind == DELTA) {
            unknown = previousTime == NEVER || time - previousTime > shape.windowNs();
            double increase = kind == COUNTER && value >= previousValue ? value - previousValue : value;
            x = increase / ((time - previousTime) * 1e-9);
        }
        previousTime = time;
        previousValue = value;
        if (unknown) {
            return;
        }
        lastTime = time;
        long pane = Math.floorDiv(time, shape.paneNs());
        int cell = cell(time, shape);
        if (cells[cell + N] == 0.0 || cells[cell + PANE] != pane) {
            cells[cell + PANE] = pane;
            cells[cell + N] = 1.0;
            cells[cell + MEAN] = x;
            cells[cell + M2] = 0.0;
            cells[cell + MIN] = x;
            cells[cell + MAX] = x;
            cells[cell + FIRST] = x;
            cells[cell + LAST] = x;
            return;
        }
        // Welford, Note on a method for calculating corrected sums of squares, Technometrics 4(3), 1962.
        cells[cell + N] += 1.0;
        double delta = x - cells[cell + MEAN];
        cells[cell + MEAN] += delta / cells[cell + N];
        cells[cell + M2] += delta * (x - cells[cell + MEAN]);
        cells[cell + MIN] = Math.min(cells[cell + MIN], x);
        cells[cell + MAX] = Math.max(cells[cell + MAX], x);
        cells[cell + LAST] = x;
    }

    /** The panes of the window that ends with `newestPane`, merged. */
    private void merge(Features out, long newestPane, int panes) {
        double n = 0.0;
        double mean = 0.0;
        double m2 = 0.0;
        out.minimum = Double.POSITIVE_INFINITY;
        out.maximum = Double.NEGATIVE_INFINITY;
        out.first = Double.NaN;
        out.last = Double.NaN;
        int recent = CELL * (int) Math.floorMod(newestPane, (long) panes);
        int cell = recent;
        for (long pane = newestPane - panes + 1; pane <= newestPane; pane++) {
            cell = cell + CELL == cells.length ? 0 : cell + CELL; // after the newest comes the oldest
            if (cells[cell + N] == 0.0 || cells[cell + PANE] != pane) {
                continue;
            }
            if (n == 0.0) {
                out.first = cells[cell + FIRST];
            }
            // Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm, STAN-CS-79-773, 1979, eq. 2.1.
            double total = n + cells[cell + N];
            double delta = cells[cell + MEAN] - mean;
            mean += delta * cells[cell + N] / total;
            m2 += cells[cell + M2] + delta * delta * n * cells[cell + N] / total;
            n = total;
            out.minimum = Math.min(out.minimum, cells[cell + MIN]);
            out.maximum = Math.max(out.maximum, cells[cell + MAX]);
            out.last = cells[cell + LAST];
        }
        out.count = (long) n;
        out.mean = mean;
        out.std = Math.sqrt(m2 / n);
        out.recentMean = cells[recent + MEAN];
        out.recentCount = (long) cells[recent + N];
    }
}

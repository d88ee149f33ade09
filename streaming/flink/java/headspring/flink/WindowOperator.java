package headspring.flink;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.java.functions.KeySelector;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.metrics.Counter;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.InternalTimer;
import org.apache.flink.streaming.api.operators.InternalTimerService;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Triggerable;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.table.data.RowData;

/**
 * Samples in, feature batches out: looks at each series at the end of every slide in which it had samples.
 *
 * <p>What is late is judged per series; the watermark only says when to look. A sample that comes behind the watermark
 * but in time for its series counts from the next look on. So nothing is lost when looks do not wait for a partition
 * that is silent: once the watermark has stood still for some time, looks follow the newest row instead. That is
 * decided here and not in the source, which cannot tell a silent partition from one that it has not begun to read.
 *
 * <p>Batches are gathered while looks are made for one watermark and sent on before the watermark is, so nothing of them
 * has to be in a checkpoint.
 */
final class WindowOperator extends AbstractStreamOperator<RowData>
        implements OneInputStreamOperator<RowData, RowData>,
                Triggerable<Tuple3<String, Long, Long>, VoidNamespace> {
    private static final long serialVersionUID = 1;
    private static final long NS_PER_MS = 1_000_000L;

    /** How often it is seen whether time goes on. */
    private static final long TICK_MS = 200;

    private final Shape shape;
    private final Pace pace;
    private final int rowsPerBatch;

    private transient ValueState<Series> state;

    /** Boundary → who is looked at then, which is also in each state. Timers for it would cost more than the looks. */
    private transient TreeMap<Long, ArrayList<Tuple3<String, Long, Long>>> due;

    /** When series are forgotten; also holds what time it is. */
    private transient InternalTimerService<VoidNamespace> timers;

    private transient Features features;
    private transient Map<Tuple2<String, Long>, FeatureBatch> batches;
    private transient long boundary;
    private transient Counter late;
    private transient Counter behind;
    private transient Counter repeated;
    private transient Counter rows;
    private transient Counter begun;
    private transient Counter forgotten;
    private transient Counter unprompted;

    /** Newest stamp of any row, and how many ticks in a row came without a row, and without a watermark. */
    private transient long newest;

    private transient int silentTicks;
    private transient int stuckTicks;

    WindowOperator(Shape shape, Pace pace, int rowsPerBatch) {
        this.shape = shape;
        this.pace = pace;
        this.rowsPerBatch = rowsPerBatch;
    }

    @Override
    public void open() throws Exception {
        super.open();
        ValueStateDescriptor<Series> kept = new ValueStateDescriptor<>("series", new SeriesSerializer());
        state = getRuntimeContext().getState(kept);
        timers = getInternalTimerService("forget", VoidNamespaceSerializer.INSTANCE, this);
        due = new TreeMap<>();
        this.<Tuple3<String, Long, Long>>getKeyedStateBackend().applyToAllKeys(
                VoidNamespace.INSTANCE, VoidNamespaceSerializer.INSTANCE, kept, (key, restored) -> {
                    long boundary = restored.value().due;
                    if (boundary != Series.NEVER) {
                        due.computeIfAbsent(boundary, fresh -> new ArrayList<>()).add(key);
                    }
                });
        features = new Features(shape);
        batches = new HashMap<>();
        late = metrics.counter("headspring_late");
        behind = metrics.counter("headspring_behind_watermark");
        repeated = metrics.counter("headspring_repeated");
        rows = metrics.counter("headspring_feature_rows");
        begun = metrics.counter("headspring_series_begun");
        forgotten = metrics.counter("headspring_series_forgotten");
        unprompted = metrics.counter("headspring_unprompted");
        newest = Series.NEVER;
        if (pace.patienceMs() > 0) {
            getProcessingTimeService().registerTimer(now() + TICK_MS, this::tick);
        }
    }

    @Override
    public void processElement(StreamRecord<RowData> element) throws Exception {
        RowData row = element.getValue();
        long stamp = row.getTimestamp(MetricBatch.TS, 3).getMillisecond();
        newest = Math.max(newest, stamp);
        silentTicks = 0;
        Series series = state.value();
        boolean isNew = series == null;
        if (isNew) {
            series = new Series();
        }
        if (!series.take(row.getLong(MetricBatch.TIME_NS), row.getDouble(MetricBatch.VALUE),
                row.getByte(MetricBatch.KIND), stamp, shape)) {
            late.inc();
            return;
        }
        if (stamp <= timers.currentWatermark()) {
            behind.inc();
        }
        plan(currentKey(), series, Math.max(stamp, timers.currentWatermark() + 1));
        if (isNew) {
            begun.inc();
            series.sweep = series.touched + pace.forgetMs();
            timers.registerEventTimeTimer(VoidNamespace.INSTANCE, series.sweep);
        }
        state.update(series);
    }

    @Override
    public void onEventTime(InternalTimer<Tuple3<String, Long, Long>, VoidNamespace> timer) throws Exception {
        Series series = state.value();
        if (series == null || series.sweep != timer.getTimestamp()) {
            return;
        }
        if (series.touched + pace.forgetMs() <= series.sweep) {
            forgotten.inc();
            state.clear();
            return;
        }
        series.sweep = series.touched + pace.forgetMs();
        timers.registerEventTimeTimer(VoidNamespace.INSTANCE, series.sweep);
        state.update(series);
    }

    @Override
    public void onProcessingTime(InternalTimer<Tuple3<String, Long, Long>, VoidNamespace> timer) {
        throw new IllegalStateException("windows have no timers of the machine's clock");
    }

    @Override
    public void processWatermark(Watermark mark) throws Exception {
        stuckTicks = 0;
        advance(mark.getTimestamp());
        output.emitWatermark(mark);
    }

    /**
     * Counts ticks rather than time: a task that was held up gets one tick for it, and then its rows, before it could
     * take its own pause for silence.
     */
    private void tick(long time) throws Exception {
        getProcessingTimeService().registerTimer(now() + TICK_MS, this::tick);
        long patience = pace.patienceMs() / TICK_MS;
        silentTicks++;
        stuckTicks++;
        if (newest == Series.NEVER || Math.max(silentTicks, stuckTicks) <= patience) {
            return;
        }
        boolean moved = advance(silentTicks > patience ? shape.boundaryAfter(newest) - 1 : newest - pace.delayMs());
        if (moved) {
            unprompted.inc();
        }
    }

    /** All looks up to this time; false if it is over already. */
    private boolean advance(long time) throws Exception {
        if (time <= timers.currentWatermark()) {
            return false;
        }
        // A watermark says that its own time is over, too: a boundary is complete one millisecond before it.
        while (!due.isEmpty() && due.firstKey() - 1 <= time) {
            Map.Entry<Long, ArrayList<Tuple3<String, Long, Long>>> next = due.pollFirstEntry();
            boundary = next.getKey();
            for (Tuple3<String, Long, Long> key : next.getValue()) {
                setCurrentKey(key);
                look(key);
            }
            flush();
        }
        getTimeServiceManager().orElseThrow().advanceWatermark(new Watermark(time));
        return true;
    }

    private long now() {
        return getProcessingTimeService().getCurrentProcessingTime();
    }

    /** Sees to it that a series is looked at after this time, and never twice for the same boundary. */
    private void plan(Tuple3<String, Long, Long> key, Series series, long time) {
        long next = shape.boundaryAfter(Math.max(time, series.evaluated));
        if (series.due == Series.NEVER || next < series.due) {
            series.due = next;
            due.computeIfAbsent(next, fresh -> new ArrayList<>()).add(key);
        }
    }

    private void look(Tuple3<String, Long, Long> key) throws Exception {
        Series series = state.value();
        if (series == null || series.due != boundary) {
            return;
        }
        series.due = Series.NEVER;
        long repeatedBefore = features.repeated;
        long lateBefore = features.late;
        if (series.evaluate(boundary, shape, features)) {
            FeatureBatch batch = batches.computeIfAbsent(
                    Tuple2.of(key.f0, key.f1), shard -> new FeatureBatch(shard.f0, shard.f1));
            batch.add(key.f2, features);
            rows.inc();
            if (batch.rows() >= rowsPerBatch) {
                send(batch);
            }
        }
        repeated.inc(features.repeated - repeatedBefore);
        late.inc(features.late - lateBefore);
        long unseen = series.unseen();
        if (unseen != Series.NEVER) {
            plan(key, series, unseen);
        }
        state.update(series);
    }

    private void flush() {
        batches.values().removeIf(batch -> batch.rows() == 0);
        batches.values().forEach(this::send);
    }

    private void send(FeatureBatch batch) {
        RowData row = batch.take(boundary * NS_PER_MS, shape.windowNs(), System.currentTimeMillis() * NS_PER_MS);
        output.collect(new StreamRecord<>(row, boundary - 1));
    }

    @SuppressWarnings("unchecked")
    private Tuple3<String, Long, Long> currentKey() {
        return (Tuple3<String, Long, Long>) getCurrentKey();
    }

    /** Tenant, shard, series. */
    static final class Key implements KeySelector<RowData, Tuple3<String, Long, Long>> {
        private static final long serialVersionUID = 1;

        @Override
        public Tuple3<String, Long, Long> getKey(RowData row) {
            return Tuple3.of(row.getString(MetricBatch.TENANT).toString(), row.getLong(MetricBatch.SHARD),
                    row.getLong(MetricBatch.SERIES_ID));
        }
    }
}

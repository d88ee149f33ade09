package headspring.flink;

import java.io.IOException;
import java.nio.ByteBuffer;
import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/**
 * How a series is written into checkpoints and savepoints: its length, a version, its numbers, and of the panes only those
 * that have samples. A checkpoint writes every series, so it is done in one piece of memory.
 *
 * <p>A release that adds a number gives it a new version and goes on reading the old ones.
 */
public final class SeriesSerializer extends TypeSerializer<Series> {
    private static final long serialVersionUID = 1;
    private static final byte VERSION = 1;

    /** Version, eleven numbers, how many panes there could be, the mark after the last, and the lengths of two arrays. */
    private static final int FIXED = 1 + 11 * 8 + 4 * 4;

    private transient ByteBuffer buffer;

    @Override
    public void serialize(Series series, DataOutputView out) throws IOException {
        int most = FIXED + 8 * (series.cells.length + series.tail - series.head + series.end) + 4 * panes(series);
        ByteBuffer to = room(most);
        to.put(VERSION);
        to.putLong(series.newest).putLong(series.reached).putLong(series.settled).putLong(series.lastTime);
        to.putLong(series.previousTime).putDouble(series.previousValue).putLong(series.touched);
        to.putLong(series.due).putLong(series.evaluated).putLong(series.sweep).putLong(series.paneNs);
        to.putInt(panes(series));
        for (int pane = 0; pane < panes(series); pane++) {
            int cell = pane * Series.CELL;
            if (series.cells[cell + Series.N] != 0.0) {
                to.putInt(pane);
                for (int i = cell; i < cell + Series.CELL; i++) {
                    to.putDouble(series.cells[i]);
                }
            }
        }
        to.putInt(-1); // no more panes
        put(to, series.kept, series.head, series.tail);
        put(to, series.samples, 0, series.end);
        out.writeInt(to.position());
        out.write(to.array(), 0, to.position());
    }

    @Override
    public Series deserialize(DataInputView in) throws IOException {
        int length = in.readInt();
        ByteBuffer from = room(length);
        in.readFully(from.array(), 0, length);
        byte version = from.get();
        if (version != VERSION) {
            throw new IOException("a series of version " + version + "; this release reads " + VERSION);
        }
        Series series = new Series();
        series.newest = from.getLong();
        series.reached = from.getLong();
        series.settled = from.getLong();
        series.lastTime = from.getLong();
        series.previousTime = from.getLong();
        series.previousValue = from.getDouble();
        series.touched = from.getLong();
        series.due = from.getLong();
        series.evaluated = from.getLong();
        series.sweep = from.getLong();
        series.paneNs = from.getLong();
        series.cells = new double[from.getInt() * Series.CELL];
        for (int pane = from.getInt(); pane >= 0; pane = from.getInt()) {
            for (int i = pane * Series.CELL; i < (pane + 1) * Series.CELL; i++) {
                series.cells[i] = from.getDouble();
            }
        }
        series.kept = get(from);
        series.tail = series.kept.length;
        series.samples = get(from);
        series.end = series.samples.length;
        return series;
    }

    @Override
    public Series copy(Series from) {
        Series to = new Series();
        to.newest = from.newest;
        to.reached = from.reached;
        to.settled = from.settled;
        to.lastTime = from.lastTime;
        to.previousTime = from.previousTime;
        to.previousValue = from.previousValue;
        to.touched = from.touched;
        to.due = from.due;
        to.evaluated = from.evaluated;
        to.sweep = from.sweep;
        to.paneNs = from.paneNs;
        to.cells = from.cells.clone();
        to.kept = from.kept.clone();
        to.head = from.head;
        to.tail = from.tail;
        to.samples = from.samples.clone();
        to.end = from.end;
        return to;
    }

    @Override
    public Series copy(Series from, Series reuse) {
        return copy(from);
    }

    @Override
    public Series deserialize(Series reuse, DataInputView in) throws IOException {
        return deserialize(in);
    }

    @Override
    public void copy(DataInputView in, DataOutputView out) throws IOException {
        int length = in.readInt();
        out.writeInt(length);
        out.write(in, length);
    }

    @Override
    public TypeSerializer<Series> duplicate() {
        return new SeriesSerializer(); // the buffer is not to be shared
    }

    @Override
    public boolean isImmutableType() {
        return false;
    }

    @Override
    public Series createInstance() {
        return new Series();
    }

    @Override
    public int getLength() {
        return -1;
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof SeriesSerializer;
    }

    @Override
    public int hashCode() {
        return SeriesSerializer.class.hashCode();
    }

    @Override
    public TypeSerializerSnapshot<Series> snapshotConfiguration() {
        return new Snapshot();
    }

    /** Public, and with such a constructor, because Flink makes one by its name when it reads a savepoint. */
    public static final class Snapshot extends SimpleTypeSerializerSnapshot<Series> {
        public Snapshot() {
            super(SeriesSerializer::new);
        }
    }

    private static int panes(Series series) {
        return series.cells.length / Series.CELL;
    }

    private ByteBuffer room(int bytes) {
        if (buffer == null || buffer.capacity() < bytes) {
            buffer = ByteBuffer.allocate(2 * bytes);
        }
        return buffer.clear();
    }

    private static void put(ByteBuffer to, long[] numbers, int start, int end) {
        to.putInt(end - start);
        for (int i = start; i < end; i++) {
            to.putLong(numbers[i]);
        }
    }

    private static long[] get(ByteBuffer from) {
        long[] numbers = new long[from.getInt()];
        for (int i = 0; i < numbers.length; i++) {
            numbers[i] = from.getLong();
        }
        return numbers;
    }
}

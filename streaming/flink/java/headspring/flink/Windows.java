package headspring.flink;

import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.table.api.Schema;
import org.apache.flink.table.api.Table;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.runtime.typeutils.InternalTypeInfo;
import org.apache.flink.table.types.DataType;

/** What the job script calls: the windows as a view that SQL statements can select from. */
public final class Windows {
    private Windows() {}

    /**
     * Makes the view `view` with the feature batches of the samples in table `samples`.
     *
     * @param samples columns of {@link MetricBatch#COLUMNS}, `ts` being the event time
     * @param slideMs how often, in event time, a series with new samples is looked at
     * @param rowsPerBatch most series in one batch
     * @param delayMs see {@link Pace}, as for the next two
     */
    public static void createView(StreamTableEnvironment tables, String samples, String view, long windowNs,
            long paneNs, long slideMs, long latenessNs, int rowsPerBatch, long delayMs, long patienceMs,
            long forgetMs) {
        Shape shape = new Shape(windowNs, paneNs, slideMs, latenessNs);
        Pace pace = new Pace(delayMs, patienceMs, forgetMs);
        Table table = tables.from(samples);
        DataType rows = table.getResolvedSchema().toSourceRowDataType().bridgedTo(RowData.class);
        DataStream<RowData> batches = tables.<RowData>toDataStream(table, rows)
                .keyBy(new WindowOperator.Key(), Types.TUPLE(Types.STRING, Types.LONG, Types.LONG))
                .transform("windows", InternalTypeInfo.of(FeatureBatch.rowType()),
                        new WindowOperator(shape, pace, rowsPerBatch))
                .uid("headspring-windows");
        tables.createTemporaryView(view, batches, Schema.newBuilder().build());
    }
}

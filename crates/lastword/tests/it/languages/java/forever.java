public class Main {
    public static void main(String[] args) throws Exception {
        System.out.println("started");
        while (true) {
            Thread.sleep(3_600_000);
        }
    }
}

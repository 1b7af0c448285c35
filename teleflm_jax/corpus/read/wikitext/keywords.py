"""Keywords of MediaWiki and Wikipedia that mark non-text, for the report's 22 languages.

Namespaces, redirects, magic words and language prefixes are those of MediaWiki 1.39's messages and of the `siteinfo` of the 22 sites;
headings are ours (docs/sources.md).
"""

MEDIA_NAMESPACES = {
    "bg": "картинка категория медия файл",
    "ca": "categoria fitxer imatge",
    "cs": "kategorie média obrázok soubor",
    "da": "billede fil kategori",
    "de": "bild datei kategorie medium",
    "en": "",
    "es": "archivo cat categoría imagen medio",
    "fr": "catégorie fichier média",
    "hr": "ct datoteka dt kategorija kt mediji slika",
    "hu": "fájl kategória kép média",
    "it": "cat categoria immagine",
    "ja": "カテゴリ ファイル メディア 画像",
    "nl": "afbeelding bestand categorie",
    "pl": "grafika kategoria plik",
    "pt": "arquivo categoria ficheiro imagem multimédia",
    "ro": "categorie fişier fișier imagine",
    "ru": "изображение к категория медиа файл",
    "sl": "datoteka kategorija slika",
    "sr": "datoteka fotografija kategorija medij medija slika датотека категорија медиј медија слика фотографија",
    "sv": "bild fil kategori",
    "uk": "зображення изображение категория категорія медиа медіа файл",
    "zh": "cat 分类 分類 图像 图片 圖像 圖片 媒体 媒体文件 媒体档案 媒體 媒體文件 媒體檔案 文件 档案 檔案",
}
"""Language -> namespaces, in lower case, of files and categories, in addition to the four that every wiki has."""
COMMON_MEDIA_NAMESPACES = frozenset(("file", "image", "category", "media"))
REDIRECTS = frozenset(
    """
    doorverwijzing omdirigering patrz presmeruj preusmeri preusmeritev preusmjeri przekieruj přesměruj redireccio redireccion redirecció
    redirección redirecionamento redirect redirecteaza redirection rimando rinvia rinvio tam weiterleitung átirányítás виж перенапр
    перенаправление перенаправлення пренасочване преусмери преусмјери リダイレクト 転送 重定向 重新導向
    """.split()
)
"""Words after the number sign at the start of a redirect."""
LANGUAGE_PREFIXES = frozenset(
    """
    aa ab ace ady af als alt am ami an ang anp ar arc ary arz as ast atj av avk awa ay az azb ba ban bar bat-smg bbc bcl be be-tarask
    be-x-old bew bg bh bi bjn blk bm bn bo bpy br bs btm bug bxr ca cbk-zam cdo ce ceb ch cho chr chy ckb co cr crh cs csb cu cv cy da dag
    de dga din diq dsb dtp dty dv dz ee egl el eml en eo es et eu ext fa fat ff fi fiu-vro fj fo fon fr frp frr fur fy ga gag gan gcr gd
    gl glk gn gom gor got gpe gsw gu guc gur guw gv ha hak haw he hi hif ho hr hsb ht hu hy hyw hz ia id ie ig igl ii ik ilo inh io is it
    iu ja jam jbo jv ka kaa kab kbd kbp kcg kg ki kj kk kl km kn ko koi kr krc ks ksh ku kus kv kw ky la lad lb lbe lez lfn lg li lij lld
    lmo ln lo lrc lt ltg lv lzh mad mai map-bms mdf mg mh mhr mi min mk ml mn mni mnw mo mr mrj ms mt mus mwl my myv mzn na nah nan nap nb
    nds nds-nl ne new ng nia nl nn no nov nqo nrm nso nv ny oc olo om or os pa pag pam pap pcd pcm pdc pfl pi pih pl pms pnb pnt ps pt pwn
    qu rm rmy rn ro roa-rup roa-tara ru rue rup rw sa sah sat sc scn sco sd se sg sgs sh shi shn shy si simple sk skr sl sm smn sn so sq
    sr srn ss st stq su sv sw szl szy ta tay tcy te tet tg th ti tk tl tly tn to tpi tr trv ts tt tum tw ty tyv udm ug uk ur uz ve vec vep
    vi vls vo vro wa war wo wuu xal xh xmf yi yo yue za zea zgh zh zh-classical zh-cn zh-min-nan zh-tw zh-yue zu
    """.split()
)
"""Prefixes of interlanguage links, which lead to the article in another language."""
MAGIC_WORDS = frozenset(
    """
    abschnitte_nicht_bearbeiten alltidinnehållsförteckning archivedtalk archiwalnadyskusja ascundecat aucunegalerie aucunetdm aucunindex
    aucunliennouvellesection aucunsommaire bez_galerije bez_indeksa bez_izmena bez_izmjena bez_nove_veze_odeljka bez_nove_veze_odjeljka
    bez_sadržaja bezcc bezeditovatčást bezedycjisekcji bezgalerie bezgalerii bezgalerije bezgalérie bezindeksa bezindeksiranja bezizmena
    bezizmjena bezkazala bezkn bezkonverzenadpisu bezkonverzeobsahu bezks bezlinkazanoviodeljak bezlinkazanoviodjeljak
    bezlinkupřidatkomentář beznovevezeodeljka beznovevezeodjeljka bezobsahu bezpretvaranjanaslova bezpretvaranjasadržaja bezsadržaja
    bezspisu bezuređivanjaodlomaka bezvezezanoviodeljak bezvezezanoviodjeljak bpn bps brezgalerije brezkazala brezkazalavsebine
    brezurejanjarazdelkov capdegalaria capdegalariá capdetaula capgaleria capindex captaula catamagada catcachee categoriaoculta
    categoríaoculta catoculta cuprins disambig disambiguacion doldkat enlacecrearsección expected_unconnected_page expectunusedcategory
    expectwithoutscans faraconvertirecontinut faraconvertiretitlu faracuprins faraeditsectiune faragalerie faraindex
    faralegaturasectiunenoua fcc fct forcarsumario forcartdc forceerinhoud forcersommaire forcertdm forcetoc forsirajsadržaj
    forsirani_sadržaj forsiranisadržaj forteazacuprins forzar_tdc forzartdc forzartoc forçarsomari forçarsumário forçartaula forçartdc
    forçartdm forçataula geen_galerij geenic geenindex geeninhoud geeninhoudconversie geennieuwesectielink geennieuwkopjekoppeling
    geennieuwkopjeverwijzing geenpaginanaamconversie geentc geentitelconversie hiddencat indeks indeksiraj indeksiranje indeksuj index
    indexar indexera indexieren indexovat indice indicizzare indizieren ingeninnehållsförteckning ingetgalleri inhaltsverzeichnis
    inhaltsverzeichnis_erzwingen inhoud inhoud_dwingen innehållsförteckning inteindexera interedigerasektion kategoriaukryta kazalo
    kein_index kein_inhaltsverzeichnis kein_neuer_abschnittslink kein_plus_link keine_galerie keine_inhaltskonvertierung
    keine_titelkonvertierung keinegalerie keininhaltsverzeichnis legaturasectiunenoua legyentartalomjegyzék legyentj liennouvellesection
    ligacaodenovasecao ligamseccionnovèla ligaçãodenovaseção linkdenovasecao linkdenovaseção linknowejsekcji linkpřidatkomentář
    linkzanoviodeljak linkzanoviodjeljak naoeditarsecao naoindexar neindeksiraj neindexovat nepomičnopreusmjeravanje neuer_abschnittslink
    neupravovaťsekcie newsectionlink nicht_indexieren nicht_indizieren niedyskusja nieindeksuj nietbewerkbaresectie nieuwesectiekoppeling
    nieuwesectielink nincsgaléria nincsindex nincsszerk nincsszerkesztés nincstartalomjegyzék nincstj nincsújszakaszhiv nincsújszakaszlink
    no_editar_sección nocc nocontentconvert noconvertircontenido noconvertirtitulo noconvertirtítulo noct noeditarseccion noeditarsección
    noeditsection nogaleria nogalería nogallery noglobal noindex noindexar noindice nonewsectionlink nonindicizzare notalk notaula notc
    notdc notitleconvert notoc nova_veza_odeljka nova_veza_odjeljka novavezaodeljka novavezaodjeljka novincularanuevaseccion
    noviodlomakpoveznica nyttavsnittlänk nãoeditarseção nãoindexar obsah pascapdedegalariá pascapdeligamseccionnovèla pascapdesomari
    pascapdetdm pascapdindèx permanente_weiterleitung plus_link poglavje poziomzabezpieczeń primorani_sadržaj primoranisadržaj
    redireccioestatica redireccionestatica redireccióestatica redirecciónestática redirecionamentoestatico redirecionamentoestático
    redirectionarestatica redirectionstatique rejtettkat rejtettkategória resum sadržaj sakrivenakat sakrivenakategorija sanscc
    sansconversioncontenu sansconversiontitre sansct seccionnoneditabla seccionoeditable secciónoeditable sectionnoneditable semcc
    semconverterconteudo semconverterconteúdo semconvertertitulo semconvertertítulo semct semeditarsecao semeditarseção semgaleria
    semligacaodenovasecao semligaçãodenovaseção semlinkdenovasecao semlinkdenovaseção semsumário semtdc sin_galería sin_tdc
    sinenlacecrearsección skritakategorija skrivenakat skrivenakategorija skrytákat skrytákategória skrýtkat somari sommaire spis
    staticképřesměrování staticnapreusmeritev staticredirect statikusátirányítás statischedoorverwijzing statischeredirect
    statiskomdirigering statičkopreusmerenje statičkopreusmjerenje statičnopreusmerenje statičnopreusmjerenje sumario sumário
    tartalomjegyzék taula tdc tdm tj toc uključisadržaj verborgencat versteckte_kategorie vezazanoviodeljak vezazanoviodjeljak
    vincularanuevaseccion vsilikazalovsebine vynútiťobsah vždyobsah wartungskategorie wymuśspis zespisem állandóátirányítás újszakaszhiv
    újszakaszlink без_галереи без_галереї без_галерије без_змісту без_измена без_измјена без_индекса без_нове_везе_одељка
    без_нове_везе_одјељка без_огл без_оглавления без_перетворення_заголовку без_перетворення_тексту без_посилання_на_новий_розділ
    без_преобразования_заголовка без_преобразования_текста без_редагув_розділу без_редактиране_на_раздели без_редактирования_раздела
    без_садржаја без_ссылки_на_новый_раздел без_індексу безвезезановиодељак безвезезановиодјељак безгалерия безгалерије безизмена
    безизмјена безиндекса безиндексиране безиндексирања безкн безкс безлинказановиодељак безлинказановиодјељак безновевезеодељка
    безновевезеодјељка безсадржаја безсъдържание безцц везазановиодељак везазановиодјељак връзка_за_нов_раздел зміст индекс индексиране
    индексирај индексирање линкзановиодељак линкзановиодјељак неиндексирај нова_веза_одељка нова_веза_одјељка новавезаодељка
    новавезаодјељка обов_зміст обяз_огл обязательное_оглавление огл оглавление посилання_на_новий_розділ приморани_садржај
    приморанисадржај прихов_кат прихована_категорія садржај сакривенакат сакривенакатегорија скривенакат скривенакатегорија
    скритакатегория скрытая_категория ссылка_на_новый_раздел статическое_перенаправление статичкопреусмерење статичкопреусмјерење
    статичне_перенаправлення статичнопреусмерење статичнопреусмјерење съдържание съссъдържание форсирани_садржај форсиранисадржај
    форсирајсадржај індекс インデックス インデックス拒否 カテゴリ非表示 カテ非表示 ギャラリー非表示 セクション編集非表示
    タイトルコンバート拒否 タイトル変換無効 タイトル非表示 不轉換內容 不轉換標題 不转换内容 不转换标题 二重転送修正無効 二重転送解消無効
    内容変換抑制 内容変換無効 強制目錄 强显目录 新しいセクションリンク 新しいセクションリンク非表示 新しい節リンク 新しい節リンク非表示
    新セクションリンク 新セクションリンク非表示 新段落链接 无图库 无新段落链接 无段落编辑 无目录 无索引 无编辑段落 消除歧义 無圖庫
    無段落編輯 無目錄 目录 目次 目次強制 目次非表示 目錄 節編集非表示 索引 隐藏分类 隠しカテゴリ 隱藏分類 静态重定向 静的転送 靜態重新導向
    非表示カテ
    """.split()
)
"""Words between double underscores that control the software, in lower case."""
